"""Which features are about harm, and not about alarming words? Discovered, confirmed, and put to two lexical controls.

Triples are the units: a harmful request, its safe contrast (the same focus words) and its benign act (the same object).
Features are discovered on one part of them; on another the differences within triples are tested by flipping their
signs, with the largest statistic over all that were discovered inside the null (max-T; Westfall & Young, 1993). A
feature is *confirmed* where it differs, in the direction in which it was discovered, from the safe contrasts **and**
from the benign acts: each test is two-sided at the family-wise level, and as the direction is given, about half of it
is each one's share. A difference must also be of some size: one word more in a prompt shifts every norm a little, and
pairs show the smallest shift that is always there. A confirmed feature goes with harm on these prompts; whether the
model uses it, `feature_causal` tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import optimize, stats

from interp.circuits.activity import Activity, feature_name
from interp.circuits.triples import KINDS, PARTS, Triples
from interp.errors import ConfigError
from interp.estimates import Estimate, max_t, of_ratios, proportion, ratio, sign_flip

Kind = Literal["unique", "shared", "differential", "none"]
At = Literal["largest", "answer"]
ALL = "all"
"""Name of the contrast that pools all categories."""


@dataclass(frozen=True, eq=False)
class FeatureContrast:
    """Features on harmful prompts beside their twins, triple by triple."""

    category: str
    features: Int[np.ndarray, "feature two"]
    """Layer and number."""
    harmful: Float[np.ndarray, "triple feature"]
    safe: Float[np.ndarray, "triple feature"]
    benign: Float[np.ndarray, "triple feature"]
    part: Int[np.ndarray, " triple"]
    """0 discovery, 1 confirmation, 2 causal."""
    p: Float[np.ndarray, " feature"]
    """Harmful against safe on the discovery part, of each feature by itself; nan where it is too seldom active."""
    discovered: Bool[np.ndarray, " feature"]
    safe_p: Float[np.ndarray, " feature"]
    """Harmful against safe on the confirmation part, corrected for all discovered (max-T); nan for the others."""
    benign_p: Float[np.ndarray, " feature"]
    """The same against the benign acts."""
    level: float
    """Family-wise, of each of the two tests."""
    min_activation: float
    min_frequency: float
    rare: float
    least: float
    """Least difference between two sides, as a share of the larger one's mean, that makes a feature confirmed."""
    why_not: str
    """Why nothing can be confirmed with so few triples; empty where something can."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """`L0_F123` for each feature."""
        return tuple(map(feature_name, *self.features.T.tolist())) if len(self.features) else ()

    @cached_property
    def direction(self) -> Int[np.ndarray, " feature"]:
        """1 where a feature is higher on harmful prompts of the discovery part, -1 where it is lower."""
        found = self.part == 0
        return np.sign((self.harmful - self.safe)[found].sum(0)).astype(int)

    @cached_property
    def survives_safe(self) -> Bool[np.ndarray, " feature"]:
        """Discovered, and on the confirmation part a difference from the safe contrasts of the same direction."""
        return self._survives(self.safe, self.safe_p)

    @cached_property
    def survives_benign(self) -> Bool[np.ndarray, " feature"]:
        """Discovered, and on the confirmation part a difference from the benign acts of the same direction."""
        return self._survives(self.benign, self.benign_p)

    @cached_property
    def confirmed(self) -> Bool[np.ndarray, " feature"]:
        """Features that survive both controls."""
        return self.survives_safe & self.survives_benign

    @cached_property
    def harm_specific(self) -> Bool[np.ndarray, " feature"]:
        """Confirmed ones that are higher on harmful prompts."""
        return self.confirmed & (self.direction > 0)

    @cached_property
    def auc(self) -> Float[np.ndarray, " feature"]:
        """Within triples of the confirmation part: how often the harmful prompt has more than its own safe contrast, a
        tie being half."""
        change = self._change()
        return ((change > 0) + 0.5 * (change == 0)).mean(0) if len(change) else np.full(len(self.features), np.nan)

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """What each feature is, on the triples that had no part in the choice.

        *unique*: confirmed, and active in at most `rare` of the prompts of each of the other sides (of the harmful
        ones for a feature that is lower there). *differential*: confirmed, and active on the other side, too.
        *shared*: not confirmed, and active in at least `min_frequency` of the harmful and of the safe prompts; that no
        difference was shown does not say that there is none. *none*: all others.
        """
        harmful, safe, benign = self._shares()
        elsewhere = np.where(self.direction > 0, np.maximum(safe, benign), harmful)
        often = np.minimum(harmful, safe) >= max(self.min_frequency, 1e-12)
        sure = self.confirmed
        alone = sure & (elsewhere <= self.rare)
        return tuple(
            "unique" if one else "differential" if kept else "shared" if both else "none"
            for one, kept, both in zip(alone, sure, often, strict=True)
        )

    def effect(self) -> Estimate:
        """Mean over standard deviation of the differences from the safe contrasts (Cohen's d_z) on the confirmation
        part; bootstrap intervals of discovered features alone, not corrected for their number."""
        change = self._change()
        spread = change.std(0, ddof=1) if len(change) > 1 else np.zeros(change.shape[1])
        found = np.divide(change.sum(0) / max(1, len(change)), spread, out=_blank(spread), where=spread > 0)
        return self._with_ends(found, self.discovered & np.isfinite(found), _standardized)

    def difference(self) -> Estimate:
        """The same differences in units of activation; no test is made of it."""
        change = self._change()
        found = change.mean(0) if len(change) else _blank(change[0])
        return self._with_ends(found, self.discovered, lambda some: ratio(some, np.ones(len(some))))

    def frequency(self, kind: Literal["harmful", "safe_contrast", "benign_act"]) -> Estimate:
        """Share of prompts of a kind in which each feature is active, on the triples that had no part in the choice."""
        return self._frequencies[KINDS.index(kind)]

    def sentence(self, index: int) -> str:
        """A feature and how often it is active on each side, on the triples that had no part in the choice."""
        kept, shown = self.part > 0, []
        active = self.harmful[kept, index] > self.min_activation
        size = f"{self.harmful[kept, index][active].mean():.2g}" if active.any() else "undefined"
        for one in (side[index] for side in self._frequencies):
            shown.append(f"{100 * one.value:.0f} % [{100 * one.low:.0f}, {100 * one.high:.0f}]")
        words = "harmful" if self.category == ALL else self.category.replace("_", "-")
        return (
            f"{self.names[index]} is active in {shown[0]} of {words} prompts, mean {size}; in {shown[1]} of their safe "
            f"contrasts and {shown[2]} of the benign acts: {self._verdict(index)}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row for each feature; means and shares on the triples that had no part in the choice."""
        kept = self.part > 0
        harmful, safe, benign = self._shares()
        effect, difference = self.effect(), self.difference()
        return pd.DataFrame(
            {
                "name": self.names, "layer": self.features[:, 0], "feature": self.features[:, 1],
                "harmful_mean": self.harmful[kept].mean(0), "safe_mean": self.safe[kept].mean(0),
                "benign_mean": self.benign[kept].mean(0), "harmful_share": harmful, "safe_share": safe,
                "benign_share": benign, "effect": effect.value, "effect_low": effect.low,
                "effect_high": effect.high, "difference": difference.value,
                "difference_low": difference.low, "difference_high": difference.high, "auc": self.auc,
                "p": self.p, "discovered": self.discovered, "safe_p": self.safe_p, "benign_p": self.benign_p,
                "survives_safe": self.survives_safe, "survives_benign": self.survives_benign,
                "confirmed": self.confirmed, "direction": self.direction, "kind": self.kinds,
            }
        )  # fmt: skip

    def power(self, power: float = 0.8) -> float:
        """Smallest d_z that the confirmation part shows with this chance, for as many features as were discovered; nan
        where nothing can be confirmed."""
        if self.why_not:
            return float("nan")
        return detectable_effect(int((self.part == 1).sum()), max(1, int(self.discovered.sum())), self.level, power)

    def _change(self) -> Float[np.ndarray, "triple feature"]:
        return (self.harmful - self.safe)[self.part == 1]

    def _with_ends(
        self, value: NDArray[np.float64], of: NDArray[np.bool_], estimate: Callable[[NDArray[np.float64]], Estimate]
    ) -> Estimate:
        """Values of all features, with the ends of the interval of some."""
        low, high = _blank(value), _blank(value)
        if of.any():
            found = estimate(self._change()[:, of])
            low[of], high[of] = found.low, found.high
        return Estimate(value, low, high, _blank(value), np.full(len(value), len(self._change())))

    def _survives(
        self, other: Float[np.ndarray, "triple feature"], p: Float[np.ndarray, " feature"]
    ) -> NDArray[np.bool_]:
        one, two = (
            side[self.part == 1].mean(0) if (self.part == 1).any() else _blank(p) for side in (self.harmful, other)
        )
        same = np.sign(one - two) == self.direction
        enough = np.abs(one - two) >= self.least * np.maximum(np.abs(one), np.abs(two))
        return self.discovered & same & enough & (np.nan_to_num(p, nan=1.0) <= self.level) & (not self.why_not)

    @cached_property
    def _frequencies(self) -> tuple[Estimate, ...]:
        """In the order of `KINDS`."""
        kept = self.part > 0
        sides = (self.harmful, self.safe, self.benign)
        return tuple(proportion((side[kept] > self.min_activation).astype(float)) for side in sides)

    def _shares(self) -> tuple[NDArray[np.float64], ...]:
        return tuple(one.value for one in self._frequencies)

    def _verdict(self, index: int) -> str:
        if self.confirmed[index]:
            more = "higher" if self.direction[index] > 0 else "lower"
            p = max(self.safe_p[index], self.benign_p[index])
            change = self._change()[:, index]
            size = change.mean() / change.std(ddof=1)
            return f"specific, {more} on harm (d = {size:.2g}, corrected p = {p:.2g}, at {self.level:.2g})"
        if self.survives_safe[index]:
            return "not specific, since no difference from benign acts on the same objects was shown"
        if self.discovered[index] and self.safe_p[index] <= self.level:
            return "not specific, since the difference is small or of the other direction"
        if self.discovered[index]:
            return "not specific, since the difference was not confirmed"
        return "not specific"


def feature_contrast(
    harmful: Float[np.ndarray, "triple feature"],
    safe: Float[np.ndarray, "triple feature"],
    benign: Float[np.ndarray, "triple feature"],
    part: Int[np.ndarray, " triple"],
    features: Int[np.ndarray, "feature two"],
    *,
    category: str = ALL,
    discovery: float = 0.05,
    level: float = 0.05,
    min_activation: float = 0.0,
    min_frequency: float = 0.1,
    rare: float = 0.05,
    least: float = 0.2,
    resamples: int = 9999,
    seed: int = 0,
) -> FeatureContrast:
    """One contrast, from activations triple by triple.

    Discovered is what is active in at least `min_frequency` of the harmful or of the safe prompts of the discovery part
    and differs there at `discovery`, uncorrected: that only chooses, the confirmation corrects for the choice. Where
    the sign patterns, or the `resamples` of them, are too few to reach a level at all, `why_not` says so and nothing is
    confirmed.
    """
    if not (0 < discovery <= 1 and 0 < level < 1) or min_activation < 0 or not 0 <= min_frequency <= 1:
        raise ConfigError("levels are above 0 and at most 1, activations at least 0, frequencies between 0 and 1")
    if not harmful.shape == safe.shape == benign.shape == (len(part), len(features)):
        raise ConfigError("a contrast needs all sides of one shape: triples by features")
    harmful, safe, benign = (side.astype(float) for side in (harmful, safe, benign))
    n = len(features)
    search, test = part == 0, part == 1
    why_not = next(
        (
            f"{int(mask.sum())} triples in the {name} part cannot show a p of {limit:.2g}: no feature can be confirmed"
            for mask, name, limit in ((search, PARTS[0], discovery), (test, PARTS[1], level))
            if smallest_p(int(mask.sum()), resamples) > limit
        ),
        "",
    )
    active = np.maximum(*((side[search] > min_activation).mean(0) if search.any() else np.zeros(n)
                          for side in (harmful, safe)))  # fmt: skip
    tried = (active >= min_frequency) & (active > 0)
    p, safe_p, benign_p = (np.full(n, np.nan) for _ in range(3))
    if tried.any():
        p[tried] = sign_flip((harmful - safe)[search][:, tried], seed=seed, resamples=resamples)
    discovered = (np.nan_to_num(p, nan=1.0) <= discovery) & (not why_not)
    if discovered.any():
        for table, other in ((safe_p, safe), (benign_p, benign)):
            apart = (harmful - other)[test][:, discovered]
            table[discovered] = max_t(apart, seed=seed + 1, resamples=resamples)
    return FeatureContrast(
        category, features, harmful, safe, benign, part, p, discovered, safe_p, benign_p, level,
        min_activation, min_frequency, rare, least, why_not,
    )  # fmt: skip


def benchmark_contrasts(
    activity: Activity,
    triples: Triples,
    *,
    at: At = "largest",
    categories: Sequence[str] | None = None,
    level: float = 0.05,
    discovery: float = 0.05,
    min_activation: float = 0.0,
    min_frequency: float = 0.1,
    rare: float = 0.05,
    least: float = 0.2,
    resamples: int = 9999,
    seed: int = 0,
) -> dict[str, FeatureContrast]:
    """The contrast of each category, and of all of them pooled under `ALL` where there are several.

    `level` is family-wise over all of them together: each is tested at its share of it. `at` says whether a prompt
    stands with its largest activation, or with that at the answer position, where features decide rather than read.
    """
    names = list(dict.fromkeys(triples.categories)) if categories is None else list(categories)
    wanted = {name: triples.chosen(name) for name in names}
    if len(names) > 1:
        wanted[ALL] = np.logical_or.reduce(list(wanted.values()))
    values = activity.largest if at == "largest" else activity.answer
    found = {}
    for name, mask in wanted.items():
        rows = triples.rows[mask]
        harmful, safe, benign = (values[rows[:, kind]] for kind in range(3))
        found[name] = feature_contrast(
            harmful, safe, benign, triples.part[mask], activity.features, category=name, discovery=discovery,
            level=level / len(wanted), min_activation=min_activation, min_frequency=min_frequency, rare=rare,
            least=least, resamples=resamples, seed=seed,
        )  # fmt: skip
    return found


def smallest_p(triples: int, resamples: int = 9999) -> float:
    """Smallest p that flipping the signs of so many differences can give, two-sided."""
    exact = triples > 0 and 2**triples <= resamples
    return 2.0 ** (1 - triples) if exact else 1 / (1 + resamples) if triples else 1.0


def detectable_effect(triples: int, tests: int, level: float = 0.05, power: float = 0.8) -> float:
    """Smallest standardised difference (d_z) that a paired test shows with this chance, two-sided.

    Student's t at level / tests (Bonferroni): max-T over features that go together needs less, skewed differences more.
    nan where so few triples cannot show the level at all.
    """
    if triples < 2 or smallest_p(triples) > level:
        return float("nan")
    edge = float(stats.t.ppf(1 - level / tests / 2, triples - 1))

    def short(effect: float) -> float:
        shown = float(stats.nct.sf(edge, triples - 1, effect * np.sqrt(triples)))
        return (0.0 if np.isnan(shown) else shown) - power

    high = 1.0
    while short(high) < 0:
        high *= 2
    found: Any = optimize.brentq(short, 0.0, high, xtol=1e-4)
    return float(found)


def _standardized(change: Float[np.ndarray, "triple feature"]) -> Estimate:
    """Mean over standard deviation, with a bootstrap interval."""
    n = len(change)

    def made(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
        spread = np.sqrt(np.maximum(ratios[:, 1] - ratios[:, 0] ** 2, 0) * n / (n - 1))
        return np.divide(ratios[:, 0], spread, out=_blank(spread), where=spread > 1e-12)

    return of_ratios(np.stack([change, change**2], 1), np.ones(n), made)


def _blank(like: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.full(like.shape, np.nan)
