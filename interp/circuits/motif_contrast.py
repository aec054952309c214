"""Which motifs tell two kinds of prompts apart? Within pairs, chosen on some of them and tested on the others.

The test flips the signs of whole groups of pairs, with the largest statistic over all motifs that were chosen inside
the null (max-T; Westfall & Young, 1993). A motif that differs goes with the difference between the prompts; whether the
answer hangs on it, only an intervention tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped
from scipy import stats

from interp.circuits.motifs import EdgeSets, Groups, Words, edge_sets, sentence
from interp.circuits.triads import TRIADS, triads
from interp.circuits.wiring import Wiring, joined
from interp.errors import ConfigError
from interp.estimates import Estimate, difference, max_t, mean, proportion, sign_flip

Search = Sequence[int] | Sequence[bool] | Shaped[np.ndarray, " some"]
"""A mask of pairs, or numbers of pairs."""


@dataclass(frozen=True, eq=False)
class MotifContrast:
    """Motifs in pairs of prompts: chosen on some pairs, tested on the others."""

    motifs: tuple[str, ...]
    names: tuple[str, str]
    """What the two sides of the pairs are."""
    first: Float[np.ndarray, "pair motif"]
    """Of edge sets 1 where the pair's first prompt has it, of triads how often it is there."""
    second: Float[np.ndarray, "pair motif"]
    shares: bool
    """Whether the values are shares of prompts, not counts."""
    searched: Bool[np.ndarray, " pair"]
    """Pairs that the motifs were chosen on."""
    groups: Int[np.ndarray, " pair"]
    p: Float[np.ndarray, " motif"]
    """On the pairs that were searched, by flipping the signs of groups of pairs."""
    q: Float[np.ndarray, " motif"]
    """The same after Benjamini and Hochberg over all motifs."""
    discovered: Bool[np.ndarray, " motif"]
    confirmed_p: Float[np.ndarray, " motif"]
    """On the other pairs, corrected for all that were discovered (max-T); nan for the others."""
    level: float
    left_out: int
    """Motifs that were frequent and not looked at (`EdgeSets.left_out`)."""

    @property
    def confirmed(self) -> Bool[np.ndarray, " motif"]:
        """Discovered, and on the other pairs a difference of the same sign with `confirmed_p` at most `level`."""
        change = self.first - self.second
        way = np.sign(change[self.searched].sum(0)) == np.sign(change[~self.searched].sum(0))
        return self.discovered & way & (np.nan_to_num(self.confirmed_p, nan=1.0) <= self.level)

    @cached_property
    def _sides(self) -> tuple[Estimate, Estimate]:
        made = proportion if self.shares else mean
        one, other = (made(side[~self.searched], self.groups[~self.searched]) for side in (self.first, self.second))
        return one, other

    def sides(self) -> tuple[Estimate, Estimate]:
        """Share of prompts, or mean count, of both sides on the pairs that had no part in the choice."""
        return self._sides

    def difference(self) -> Estimate:
        """First minus second on the pairs that had no part in the choice; its p is not corrected."""
        kept = ~self.searched
        return difference(self.first[kept], self.second[kept], self.groups[kept])

    def distinct(self) -> tuple[Int[np.ndarray, " some"], Int[np.ndarray, " motif"]]:
        """One of all motifs that are in the very same prompts, confirmed ones first and then the largest differences;
        and how many others each stands for."""
        sides = np.concatenate([self.first, self.second])
        _, first, count = np.unique(sides, axis=1, return_index=True, return_counts=True)
        first, count = first[np.argsort(first)], count[np.argsort(first)]
        one, other = (side.value[first] for side in self.sides())
        order = first[np.lexsort((-np.abs(np.nan_to_num(one - other)), ~self.confirmed[first]))]
        alike = np.zeros(len(self.motifs), np.int64)
        alike[first] = count - 1
        return order, alike

    def sentence(self, index: int) -> str:
        """A motif and what both sides of the pairs have of it, on the pairs that had no part in the choice."""
        parts = [(side[index], name) for side, name in zip(self.sides(), self.names, strict=True)]
        return sentence(self.motifs[index], parts, self.shares)

    def to_frame(self) -> pd.DataFrame:
        """One row for each motif. Values and intervals are those of the pairs that had no part in the choice."""
        (one, other), change = self.sides(), self.difference()
        return pd.DataFrame(
            {
                "motif": self.motifs, "first": one.value, "first_low": one.low, "first_high": one.high,
                "second": other.value, "second_low": other.low, "second_high": other.high,
                "difference": change.value, "low": change.low, "high": change.high, "pairs": change.n, "p": self.p,
                "q": self.q, "discovered": self.discovered, "confirmed_p": self.confirmed_p,
                "confirmed": self.confirmed,
            }
        )  # fmt: skip


def edge_set_contrast(
    first: Wiring,
    second: Wiring,
    search: Search,
    *,
    groups: Groups | None = None,
    support: float = 0.2,
    size: int = 3,
    most: int = 5000,
    discovery: float = 0.05,
    level: float = 0.05,
    names: tuple[str, str] = ("harmful prompts", "their safe contrasts"),
    words: Words | None = None,
    resamples: int = 9999,
    seed: int = 0,
) -> MotifContrast:
    """Edge sets that the first prompts of pairs have more or less often than the second; prompt i is paired with i.

    `search` (a mask or numbers of pairs) says where sets are sought, those with the support on either side, and chosen
    by q at most `discovery`; on the other pairs they are tested at the family-wise `level`. Pairs of one group (one
    template) stay together and must stand on one side of the split.
    """
    searched, group = _split(first, second, search, groups, discovery, level)
    found = sets_of_pairs(first, second, searched, support=support, size=size, most=most)
    texts = tuple(found.text(i, words) for i in range(len(found.sets)))
    one, other = np.split(found.present.astype(float), 2)
    return _contrast(
        texts, names, one, other, True, searched, group, found.left_out, discovery, level, resamples, seed
    )  # fmt: skip


def sets_of_pairs(
    first: Wiring,
    second: Wiring,
    searched: Bool[np.ndarray, " pair"],
    *,
    support: float = 0.2,
    size: int = 3,
    most: int = 5000,
) -> EdgeSets:
    """Edge sets that have the support on either side of the pairs that are searched: those that `edge_set_contrast`
    tests, in its order. Prompts are those of the first side, then those of the second."""
    sides = np.where(np.tile(searched, 2), np.repeat(["first", "second"], len(searched)), "")
    categories = [str(one) for one in sides]
    return edge_sets(joined([first, second]), support=support, size=size, categories=categories, most=most)


def triad_contrast(
    first: Wiring,
    second: Wiring,
    search: Search,
    *,
    groups: Groups | None = None,
    discovery: float = 0.05,
    level: float = 0.05,
    names: tuple[str, str] = ("harmful prompts", "their safe contrasts"),
    resamples: int = 9999,
    seed: int = 0,
) -> MotifContrast:
    """Classes of triads that the first prompts of pairs have more or fewer of; as `edge_set_contrast`.

    Counts grow with the graph: where one side's graphs are larger, all classes differ. See `triad_null` for that.
    """
    searched, group = _split(first, second, search, groups, discovery, level)
    one, other = (triads(side).counts.astype(float) for side in (first, second))
    there = np.flatnonzero(one[searched].any(0) | other[searched].any(0))
    texts = tuple(TRIADS[i].text for i in there)
    return _contrast(
        texts, names, one[:, there], other[:, there], False, searched, group, 0, discovery, level, resamples, seed
    )  # fmt: skip


def _split(
    first: Wiring,
    second: Wiring,
    search: Search,
    groups: Groups | None,
    discovery: float,
    level: float,
) -> tuple[Bool[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Which pairs are searched, and the group of each pair."""
    n = first.n_prompts
    if second.n_prompts != n:
        raise ConfigError(f"pairs need as many first as second prompts, not {n} and {second.n_prompts}")
    if not (0 < discovery <= 1 and 0 < level < 1):
        raise ConfigError(f"levels are above 0 and at most 1, not {discovery} and {level}")
    chosen = np.asarray(search)
    searched = np.zeros(n, bool)
    if chosen.dtype == bool and chosen.shape == (n,):
        searched = chosen.copy()
    elif np.issubdtype(chosen.dtype, np.integer) and np.isin(chosen, np.arange(n)).all():
        searched[chosen] = True
    else:
        raise ConfigError(f"the pairs to search are a mask of {n} pairs, or numbers below {n}")
    group = np.arange(n) if groups is None else np.asarray(groups)
    if len(group) != n:
        raise ConfigError(f"{len(group)} groups do not fit {n} pairs")
    ours, others = set(group[searched].tolist()), set(group[~searched].tolist())
    if ours & others:
        raise ConfigError(f"{len(ours & others)} groups of pairs stand on both sides of the split")
    if not ours:
        raise ConfigError("no pair is left to search in")
    if 2.0 ** (1 - len(others)) > level:
        raise ConfigError(f"{len(others)} groups of pairs cannot show a p of {level}; leave more out of the search")
    return searched, group


def _contrast(
    motifs: tuple[str, ...],
    names: tuple[str, str],
    first: Float[np.ndarray, "pair motif"],
    second: Float[np.ndarray, "pair motif"],
    shares: bool,
    searched: Bool[np.ndarray, " pair"],
    groups: Int[np.ndarray, " pair"],
    left_out: int,
    discovery: float,
    level: float,
    resamples: int,
    seed: int,
) -> MotifContrast:
    change = first - second
    # Many sets are there in the same prompts, and are tested once.
    distinct, same = np.unique(change, axis=1, return_inverse=True)
    p = sign_flip(distinct[searched], groups[searched], seed=seed, resamples=resamples)[same.ravel()]
    q = stats.false_discovery_control(p) if len(p) else p
    discovered = q <= discovery
    confirmed = np.full(len(p), np.nan)
    if discovered.any():
        again = np.unique(same.ravel()[discovered], return_inverse=True)
        found = max_t(distinct[~searched][:, again[0]], groups[~searched], seed=seed + 1, resamples=resamples)
        confirmed[discovered] = found[again[1]]
    return MotifContrast(
        motifs, names, first, second, shares, searched, groups, p, q, discovered, confirmed, level, left_out
    )  # fmt: skip
