"""Which findings about features hold in two models on the same benchmark?

Features of two models share no number, so they are matched by what they respond to: on the discovery part of the
triples each finding's feature gets the other model's feature with the largest rank correlation over prompts; on the
other parts that one correlation is tested. A finding holds in both where its match is confirmed there by itself, in the
same contrast and direction, and responds alike. A finding that does not hold is not shown to be absent: the other model
may spread it over several features, or the triples may be too few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import stats

from interp.circuits.activity import Activity, feature_name
from interp.circuits.feature_contrast import ALL, At, FeatureContrast
from interp.circuits.triples import Triples
from interp.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Matches:
    """The confirmed features of one model in one contrast, each beside its match in the other model."""

    category: str
    features: Int[np.ndarray, "finding two"]
    """Layer and number in the first model."""
    matches: Int[np.ndarray, "finding two"]
    """In the second."""
    correlation: Float[np.ndarray, " finding"]
    """Spearman's, over the prompts that did not choose the match; nan where one of them is constant."""
    p: Float[np.ndarray, " finding"]
    """One-sided, against prompts of the second model dealt out anew: do they respond alike at all? Telling the kinds of
    prompts apart is enough for that."""
    within_p: Float[np.ndarray, " finding"]
    """Against triples exchanged within their category, kinds kept: do they respond alike beyond what the kind and the
    category say? 1 for a feature that answers to these alone."""
    also: Bool[np.ndarray, " finding"]
    """Whether the match is confirmed in the second model, in the same contrast and direction."""
    level: float
    confirmed: tuple[int, int]
    """Confirmed features of both models."""

    @property
    def holds(self) -> Bool[np.ndarray, " finding"]:
        """Findings whose match is confirmed and whose `p` is at most `level`, corrected for their number (Holm)."""
        return self.also & (_holm(self.p) <= self.level)

    def sentence(self, index: int) -> str:
        """A finding and what became of it."""
        one, two = (feature_name(*part[index].tolist()) for part in (self.features, self.matches))
        end = "holds in both" if self.holds[index] else "is not shown to hold in both"
        return (
            f"{one} and the other model's {two} respond alike with r = {self.correlation[index]:.2f} (p = "
            f"{self.p[index]:.2g}), {two} is {'' if self.also[index] else 'not '}confirmed: the finding {end}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row for each finding."""
        names = [[feature_name(*one) for one in part.tolist()] for part in (self.features, self.matches)]
        return pd.DataFrame(
            {
                "category": self.category, "feature": names[0], "match": names[1], "correlation": self.correlation,
                "p": self.p, "within_p": self.within_p, "match_confirmed": self.also, "holds": self.holds,
            }
        )  # fmt: skip


def matched_findings(
    first: Activity,
    first_contrasts: Mapping[str, FeatureContrast],
    second: Activity,
    second_contrasts: Mapping[str, FeatureContrast],
    triples: Triples,
    *,
    at: At = "largest",
    level: float = 0.05,
    resamples: int = 999,
    seed: int = 0,
) -> dict[str, Matches]:
    """Each contrast that both models have; both read the same prompts, in one order.

    `at` is that of the contrasts. `level` is family-wise within a contrast. Findings are those of the first model.
    """
    if len(first.largest) != len(second.largest):
        raise ConfigError(f"both models need the same prompts, not {len(first.largest)} and {len(second.largest)}")
    values = [one.largest if at == "largest" else one.answer for one in (first, second)]
    found = {}
    for name in (name for name in first_contrasts if name in second_contrasts):
        one, two = first_contrasts[name], second_contrasts[name]
        mask = triples.chosen(None if name == ALL else name)
        if name == ALL:
            named = set(first_contrasts) - {ALL}
            mask = np.array([own in named for own in triples.categories]) if named else mask
        if not (len(one.part) == len(two.part) == mask.sum() and (one.part == two.part).all()):
            raise ConfigError(f"the contrasts of {name} are of other triples than those given")
        search, test = (triples.rows[mask & part] for part in (triples.part == 0, triples.part > 0))
        chosen = np.flatnonzero(one.confirmed)
        rows = search.ravel()
        alike = _ranked(values[0][rows][:, chosen]).T @ _ranked(values[1][rows])
        best = alike.argmax(1) if alike.size else np.zeros(len(chosen), dtype=np.int64)
        a, b = values[0][test.ravel()][:, chosen], values[1][test.ravel()][:, best]
        category = np.unique(np.array(triples.categories)[mask & (triples.part > 0)], return_inverse=True)[1]
        r, p, within = _tested(a, b, category, resamples, seed)
        also = two.confirmed[best] & (two.direction[best] == one.direction[chosen])
        counts = int(one.confirmed.sum()), int(two.confirmed.sum())
        found[name] = Matches(name, first.features[chosen], second.features[best], r, p, within, also, level, counts)
    return found


def _tested(
    a: NDArray[np.float32], b: NDArray[np.float32], category: NDArray[np.int64], resamples: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Correlations of columns, kind beside kind of each triple, and p values against both ways of dealing triples."""
    x, y = _ranked(a), _ranked(b)
    r = (x * y).sum(0)
    rng = np.random.default_rng(seed)
    n = len(category)
    exceeded = np.ones((2, x.shape[1]))
    slots = 3 * np.arange(n)[:, None] + np.arange(3)
    for _ in range(resamples):
        free = rng.permuted(slots[rng.permutation(n)], axis=1).ravel()
        kept = np.lexsort((rng.random(n), category))
        order = np.empty(n, dtype=np.int64)
        order[np.argsort(category, kind="stable")] = kept
        for way, deal in enumerate((free, slots[order].ravel())):
            exceeded[way] += (x * y[deal]).sum(0) >= r - 1e-9
    p = exceeded / (1 + resamples)
    flat = (np.ptp(a, 0) == 0) | (np.ptp(b, 0) == 0) if len(a) else np.ones(x.shape[1], bool)
    return np.where(flat, np.nan, r), np.where(flat, 1.0, p[0]), np.where(flat, 1.0, p[1])


def _ranked(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Ranks of each column, centred and of length one; zero where it is constant."""
    ranks = stats.rankdata(values, axis=0) if values.size else np.zeros(values.shape)
    apart = ranks - ranks.mean(0, keepdims=True) if len(ranks) else ranks
    length = np.sqrt((apart**2).sum(0))
    return np.divide(apart, length, out=np.zeros(apart.shape), where=length > 0)


def _holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm, Scand. J. Stat. 6 (1979) 65."""
    order = np.argsort(p, kind="stable")
    found = np.empty(len(p))
    found[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1) if len(p) else p
    return found
