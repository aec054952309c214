"""From values per prompt to estimates with an interval and a p value.

Prompts of one group (one template, one problem up to order) are not independent and are resampled together. A recovered
fraction is a ratio of means, never a mean of ratios. Every function takes values with the prompt axis first and keeps
the others, so a whole grid is estimated at once; nan marks a prompt that has no value in a cell and is left out there.

Sources: BCa intervals, Efron, J. Am. Stat. Assoc. 82 (1987) 171; their widening for few groups, Hesterberg, "What
Teachers Should Know About the Bootstrap" (arXiv 1411.5279), section 4.2; the studentized maximum (max-T), Westfall &
Young, "Resampling-Based Multiple Testing" (1993); Wilson's interval, J. Am. Stat. Assoc. 22 (1927) 209.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor

from interp.errors import PromptError

Values = ArrayLike | Tensor

FEWEST_GROUPS = 8
"""Below this many independent groups no interval is given: it would cover too seldom."""

_RESAMPLES = 2000
_CELLS_AT_ONCE = 256


@dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """A number, or a grid of numbers, with its uncertainty. All fields have one shape; nan is undefined."""

    value: Float[np.ndarray, "*cell"]
    low: Float[np.ndarray, "*cell"]
    """Lower end of the 95 % interval."""
    high: Float[np.ndarray, "*cell"]
    p: Float[np.ndarray, "*cell"]
    """Two-sided p value of the value being zero; nan where no test was made."""
    n: Int[np.ndarray, "*cell"]
    """Independent groups behind the value."""

    @classmethod
    def single(cls, value: float, low: float, high: float, *, p: float = np.nan, n: int = 0) -> Estimate:
        """An estimate of one number."""
        return cls(*(np.asarray(float(x)) for x in (value, low, high, p)), n=np.asarray(n))

    def __getitem__(self, index: Any) -> Estimate:
        return Estimate(*(np.asarray(getattr(self, f)[index]) for f in ("value", "low", "high", "p", "n")))

    def __repr__(self) -> str:
        if self.value.ndim:
            return f"Estimate over {self.value.shape}"
        return f"{float(self.value):.3g} [{float(self.low):.3g}, {float(self.high):.3g}] (n = {int(self.n)})"

    def as_dict(self) -> dict[str, float | int | None]:
        """Plain numbers of a single estimate; None for what is undefined."""
        numbers = {name: float(getattr(self, name)) for name in ("value", "low", "high", "p")}
        return {name: None if np.isnan(x) else x for name, x in numbers.items()} | {"n": int(self.n)}


def mean(values: Values, groups: Values | None = None, *, seed: int = 0) -> Estimate:
    """Mean over prompts with a bootstrap interval over groups, and a sign-flip test of the group sums against zero."""
    table = _table(values)
    found = ratio(table, np.where(np.isnan(table), np.nan, 1.0), groups, seed=seed)
    return Estimate(found.value, found.low, found.high, sign_flip(table, groups, seed=seed), found.n)


def difference(first: Values, second: Values, groups: Values | None = None, *, seed: int = 0) -> Estimate:
    """Mean paired difference of two sets of values on the same prompts."""
    return mean(_table(first) - _table(second), groups, seed=seed)


def share_change(values: Values, groups: Values | None = None, *, seed: int = 0) -> Estimate:
    """Mean of changes between wrong and right (-1, 0 or 1), of one cell.

    As `mean`, but where all prompts agree, and the bootstrap knows nothing of the error, the interval is what Wilson's
    leaves to a change that was never seen.
    """
    table = _table(values)
    if table.ndim > 1 or not (np.isnan(table) | np.isin(table, (-1, 0, 1))).all():
        raise PromptError("changes between wrong and right are -1, 0 or 1, one a prompt")
    return _unseen(mean(table, groups, seed=seed))


def group_difference(
    first: Values, first_groups: Values, second: Values, second_groups: Values, *, seed: int = 0
) -> Estimate:
    """Difference of shares (0 or 1 a prompt) between two sets of prompts that share groups: the mean over groups that
    hold both of the difference within the group.

    Where all groups agree the interval is that of `share_change`.
    """
    parts = [
        (_table(values), np.asarray(groups)) for values, groups in ((first, first_groups), (second, second_groups))
    ]
    shared = np.intersect1d(parts[0][1], parts[1][1])
    if not len(shared):
        raise PromptError("the two sets of prompts share no group; group them by what they have in common")
    one, other = (np.array([values[groups == g].mean() for g in shared]) for values, groups in parts)
    return _unseen(mean(one - other, seed=seed))


def _unseen(found: Estimate) -> Estimate:
    """An interval also where all groups agree: what Wilson's leaves to a change that was never seen."""
    n = int(found.n)
    if not np.isnan(found.low) or n < FEWEST_GROUPS:
        return found
    value, reach = float(found.value), float(counted(0, n).high)
    return Estimate.single(value, max(value - reach, -1.0), min(value + reach, 1.0), n=n)


def ratio(numerator: Values, denominator: Values, groups: Values | None = None, *, seed: int = 0) -> Estimate:
    """Ratio of means over prompts with a grouped bootstrap interval (BCa, widened for few groups).

    A prompt counts where both parts are numbers; a denominator with one value a prompt serves all cells. There is no
    interval (nan) below `FEWEST_GROUPS` groups, where all groups agree exactly (the bootstrap then knows nothing of
    the error), and where the resampled denominators change sign. The p value is nan.
    """
    top, bottom = _table(numerator), _table(denominator)
    if bottom.ndim == 1 and top.ndim > 1:
        bottom = bottom.reshape(-1, *[1] * (top.ndim - 1))
    top, bottom = np.broadcast_arrays(top, bottom)
    present = ~(np.isnan(top) | np.isnan(bottom))
    shape = top.shape[1:]
    index = _groups(groups, len(top))
    tops = _sums(np.where(present, top, 0.0), index)
    bottoms = _sums(np.where(present, bottom, 0.0), index)
    counts = _sums(present.astype(float), index) > 0
    n = counts.sum(0)
    value = _divide(tops.sum(0), bottoms.sum(0))
    low, high = np.full_like(value, np.nan), np.full_like(value, np.nan)
    enough = (n >= FEWEST_GROUPS) & np.isfinite(value)
    weights = _resample(len(tops), seed) if enough.any() else np.zeros((0, len(tops)))
    cells = np.flatnonzero(enough)
    for first in range(0, len(cells), _CELLS_AT_ONCE):
        part = cells[first : first + _CELLS_AT_ONCE]
        low[part], high[part] = _bca(tops[:, part], bottoms[:, part], counts[:, part], value[part], weights)
    return Estimate(*(a.reshape(shape) for a in (value, low, high, np.full_like(value, np.nan), n)))


def of_ratios(
    numerator: Values,
    denominator: Values,
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    groups: Values | None = None,
    *,
    sets: bool = False,
    seed: int = 0,
) -> Estimate:
    """What a function makes of several ratios of means with one denominator, with a grouped bootstrap interval.

    `function` gets ratios [draw, ...], the axes of `numerator` behind the draws, and keeps the draws. Prompts with a
    nan in any part are left out; intervals as in `ratio`, and nan in the same cases. p is nan.

    With `sets` the axis after the prompts holds sets drawn at random (circuits, say); `function` keeps it, the mean
    over it is estimated, and it is resampled as the prompts are, so that the interval also holds how far sets differ:
    of percentiles (pigeonhole bootstrap, Owen, Ann. Appl. Stat. 1 (2007) 386, which errs on the wide side), and nan
    for fewer than two sets.
    """
    top, bottom = _table(numerator), _table(denominator)
    shape = top.shape[1:]
    top = top.reshape(len(top), -1)
    kept = ~(np.isnan(top).any(1) | np.isnan(bottom))
    index = np.unique(_groups(groups, len(top))[kept], return_inverse=True)[1]
    n = int(index.max()) + 1 if len(index) else 0
    tops, bottoms = _sums(top[kept], index), _sums(bottom[kept][:, None], index)

    def made(upper: NDArray[np.float64], lower: NDArray[np.float64]) -> NDArray[np.float64]:
        return function(_divide(upper, lower).reshape(-1, *shape))

    each = made(tops.sum(0)[None], bottoms.sum(0)[None])
    value = (each.mean(1) if sets else each)[0]
    low, high = np.full_like(value, np.nan), np.full_like(value, np.nan)
    if n >= FEWEST_GROUPS and np.isfinite(value).all():
        weights = _resample(n, seed)
        lower = weights @ bottoms
        draws = made(weights @ tops, lower)
        flat = draws.reshape(len(draws), -1)
        if not sets:
            left_out = made(tops.sum(0) - tops, bottoms.sum(0) - bottoms).reshape(n, -1)
            low, high = (end.reshape(value.shape) for end in _accelerated(flat, value.reshape(-1), left_out))
        elif shape[0] > 1:
            chosen = _resample(shape[0], seed + 1) / shape[0]
            flat = np.einsum("ds...,ds->d...", draws, chosen).reshape(len(draws), -1)
            low, high = (end.reshape(value.shape) for end in _percentiles(flat, min(n, shape[0])))
        if _unsteady(lower, bottoms)[0]:
            low, high = np.full_like(value, np.nan), np.full_like(value, np.nan)
    ends = (np.asarray(end) for end in (value, low, high, np.full_like(value, np.nan)))
    return Estimate(*ends, n=np.full(value.shape, n))


def ratio_value(
    numerator: Values, denominator: Values, groups: Values | None = None
) -> tuple[Float[np.ndarray, "*cell"], Int[np.ndarray, "*cell"]]:
    """Ratio of means and number of groups of every cell, without intervals: for searching a grid."""
    top, bottom = np.broadcast_arrays(_table(numerator), _table(denominator))
    present = ~(np.isnan(top) | np.isnan(bottom))
    counts = _sums(present.astype(float), _groups(groups, len(top))) > 0
    value = _divide(np.where(present, top, 0.0).sum(0), np.where(present, bottom, 0.0).sum(0))
    return value, np.asarray(counts.sum(0).reshape(value.shape))


def mean_value(values: Values) -> Float[np.ndarray, "*cell"]:
    """Mean over prompts of every cell without those that are nan, for searching a grid; nan where none is left."""
    table = _table(values)
    return ratio_value(table, np.where(np.isnan(table), np.nan, 1.0))[0]


def proportion(successes: Values, groups: Values | None = None) -> Estimate:
    """Share of prompts that succeed (0 or 1; nan is left out) with Wilson's interval, the groups being the trials.

    For shares only: the bootstrap of `mean` covers too seldom near 0 and 1, and Wilson's interval must not be used for
    differences, whose zero it would exclude at the first one.
    """
    table = _table(successes)
    if not (np.isnan(table) | (table == 0) | (table == 1)).all():
        raise PromptError("a proportion counts successes: values must be 0 or 1")
    value, n = ratio_value(table, np.where(np.isnan(table), np.nan, 1.0), groups)
    low, high = _wilson(value, np.where(n > 0, n, np.nan))
    return Estimate(value, low, high, np.full_like(value, np.nan), n)


def counted(successes: Values, n: Values) -> Estimate:
    """Shares of independent trials by their counts, with Wilson's interval."""
    top, bottom = _table(successes), _table(n)
    if (top < 0).any() or (top > bottom).any():
        raise PromptError("a count of successes lies between 0 and the number of trials")
    value = _divide(top, np.broadcast_to(bottom, top.shape))
    low, high = _wilson(value, np.where(bottom > 0, bottom, np.nan))
    whole = np.broadcast_to(bottom, top.shape).astype(int)
    return Estimate(value, low, high, np.full_like(value, np.nan), whole)


def proportion_difference(first: Estimate, second: Estimate) -> Estimate:
    """Difference of two independent single proportions (Newcombe's method 10, Stat. Med. 17 (1998) 873)."""
    p, q = float(first.value), float(second.value)
    low = p - q - np.hypot(p - float(first.low), float(second.high) - q)
    high = p - q + np.hypot(float(first.high) - p, q - float(second.low))
    return Estimate.single(p - q, low, high, n=min(int(first.n), int(second.n)))


def constant(value: float, n: int = 0) -> Estimate:
    """A number that is known without error, for instance chance."""
    return Estimate.single(value, value, value, n=n)


def population(
    values: Sequence[float] | NDArray[np.float64], *, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    """Mean over models of a population (untrained seeds) and where a further one would fall (95 %, Student's t).

    `bounds` are the ends that a value can have (0 and 1 for shares), to which the interval is cut.
    """
    found = np.asarray(values, dtype=float)
    k = len(found)
    if k < 3:
        return Estimate.single(found.mean() if k else np.nan, np.nan, np.nan, n=k)
    reach = float(stats.t.ppf(0.975, k - 1) * found.std(ddof=1) * np.sqrt(1 + 1 / k))
    low, high = np.clip([found.mean() - reach, found.mean() + reach], *bounds)
    return Estimate.single(found.mean(), low, high, n=k)


def against_population(
    trained: Estimate, others: Sequence[float] | NDArray[np.float64], *, reach: float = np.inf
) -> Estimate:
    """One trained model's value minus what models of a population (untrained seeds) give.

    `reach` is the largest possible difference (1 for shares), to which the interval is cut.

    The interval joins the trained value's own interval with where a further draw from the population would fall
    (`population`), half-width by half-width in quadrature (MOVER; Zou & Donner, Stat. Med. 27 (2008) 1693); `n` counts
    the population, and below three the interval is undefined. The others' own measurement error is part of their
    spread, so the interval is wide where that dominates. It supposes a population that is roughly normal: of a skewed
    one (the best of many heads) more draws than 2.5 % lie above it, which is why a claim must also exceed a minimum
    effect. No test is made.
    """
    values = np.asarray(others, dtype=float)
    k = len(values)
    center = float(trained.value) - float(values.mean()) if k else float("nan")
    below, above = (abs(float(end) - float(trained.value)) for end in (trained.low, trained.high))
    if k < 3 or not np.isfinite(below + above):
        return Estimate.single(center, np.nan, np.nan, n=k)
    spread = float(stats.t.ppf(0.975, k - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / k))
    low, high = center - np.hypot(below, spread), center + np.hypot(above, spread)
    return Estimate.single(center, max(low, -reach), min(high, reach), n=k)


def dealt(
    codes: Shaped[np.ndarray, " prompt"], groups: Shaped[np.ndarray, " prompt"], rng: np.random.Generator
) -> Shaped[np.ndarray, " prompt"]:
    """Labels dealt out anew; -1 (no label) stays where it is.

    Groups whose prompts share a label exchange labels, each getting one; groups that hold several shuffle them among
    their own prompts, so that what a group has in common never tells the labels apart.
    """
    return dealt_often(codes, groups, rng, 1)[0]


def dealt_often(
    codes: Shaped[np.ndarray, " prompt"], groups: Shaped[np.ndarray, " prompt"], rng: np.random.Generator, times: int
) -> Shaped[np.ndarray, "time prompt"]:
    """Labels dealt out anew as by `dealt`, several times in a row."""
    shuffled = np.repeat(codes[None], times, axis=0)
    kept = np.flatnonzero(codes >= 0)
    names, first, index = np.unique(groups[kept], return_index=True, return_inverse=True)
    own = codes[kept]
    mixed = np.zeros(len(names), dtype=bool)
    np.logical_or.at(mixed, index, own != own[first][index])
    alone = ~mixed[index]
    given = own[first]
    inner = kept[~alone]
    order = inner[np.argsort(groups[inner], kind="stable")]
    for row in shuffled:
        given[~mixed] = rng.permutation(own[first][~mixed])
        row[kept[alone]] = given[index[alone]]
        if len(inner):
            row[order] = codes[inner][np.lexsort((rng.random(len(inner)), groups[inner]))]
    return shuffled


def matched(
    label: Bool[np.ndarray, " prompt"],
    strata: Shaped[np.ndarray, " prompt"],
    groups: Shaped[np.ndarray, " prompt"],
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Pairs of prompts of one stratum, one with the label and one without; no group comes twice.

    Differences within such pairs are independent, and symmetric about zero where the label makes no difference.
    """
    order = rng.permutation(len(label))
    order = order[np.sort(np.unique(groups[order], return_index=True)[1])]
    pairs: list[NDArray[np.int64]] = []
    for stratum in np.unique(strata):
        here = order[strata[order] == stratum]
        having, lacking = here[label[here]], here[~label[here]]
        n = min(len(having), len(lacking))
        pairs.append(np.stack([having[:n], lacking[:n]]))
    both = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), dtype=np.int64)
    return both[0], both[1]


def sign_flip(
    values: Values, groups: Values | None = None, *, seed: int = 0, resamples: int = 9999
) -> Float[np.ndarray, "*cell"]:
    """Two-sided p of a distribution symmetric about zero: the signs of whole groups are flipped.

    All sign patterns are tried where there are at most `resamples` of them, else a random set, with a Monte Carlo
    error of sqrt(p (1 - p) / resamples). What is tested is symmetry about zero, so few and skewed groups can reject
    more often than their mean being zero would warrant.
    """
    standard, observed, shape = _studentized(values, groups)
    exceeded = np.zeros(len(observed))
    signs, exact = _signs(len(standard), seed, resamples)
    for first in range(0, len(observed), _CELLS_AT_ONCE):
        part = slice(first, first + _CELLS_AT_ONCE)
        null = np.abs(signs @ standard[:, part])
        exceeded[part] = (null >= np.abs(observed[part]) - 1e-12).sum(0)
    p = exceeded / len(signs) if exact else (1 + exceeded) / (1 + len(signs))
    return np.where(np.isnan(observed), np.nan, p).reshape(shape)


def max_t(
    values: Values, groups: Values | None = None, *, seed: int = 0, resamples: int = 9999
) -> Float[np.ndarray, "*cell"]:
    """Two-sided p of symmetry about zero in each cell, corrected for having searched all cells (studentized maximum).

    The largest statistic over the cells is inside the null, so the family-wise error is controlled whatever the
    dependence between cells.
    """
    standard, observed, shape = _studentized(values, groups)
    signs, exact = _signs(len(standard), seed, resamples)
    largest = np.zeros(len(signs))
    for first in range(0, len(observed), _CELLS_AT_ONCE):
        null = np.abs(signs @ standard[:, first : first + _CELLS_AT_ONCE])
        largest = np.maximum(largest, null.max(1, initial=0.0))
    exceeded = len(largest) - np.searchsorted(np.sort(largest), np.abs(observed) - 1e-12)
    p = exceeded / len(signs) if exact else (1 + exceeded) / (1 + len(signs))
    return np.where(np.isnan(observed), np.nan, p).reshape(shape)


def rank_p(own: Values, null: Values, *, largest: bool = True) -> Float[np.ndarray, "*cell"]:
    """One-sided p of a value among those of exchangeable others: (1 + #others at least as large) / (1 + #others).

    `own` has the shape of the cells, `null` the others in front. With `largest` each candidate stands for its largest
    standardised cell (mean and spread over all candidates, the own one among them), so that having searched the cells
    is inside the null, and one number comes out; without, each cell by itself. Cells that lack a value are left out,
    and so are cells whose values differ by float32's rounding alone.
    """
    table = np.concatenate([_table(own)[None], _table(null)]).reshape(1 + len(_table(null)), -1)
    if largest:
        table = table[:, ~np.isnan(table).any(0)]
        if not table.shape[1]:
            return np.asarray(np.nan)
        spread = table.std(0)
        told = spread > 1e-6 * np.abs(table).max(0)
        table = np.divide(table - table.mean(0), spread, out=np.zeros_like(table), where=told).max(1)[:, None]
    p = (table >= table[0] - 1e-12).sum(0) / len(table)
    found = np.where(np.isnan(table).any(0), np.nan, p)
    return np.asarray(found[0]) if largest else found.reshape(np.shape(_table(own)))


def rank_correlation(first: Values, second: Values, groups: Values | None = None, *, seed: int = 0) -> Estimate:
    """Spearman's correlation over prompts, with a grouped bootstrap interval (percentiles of Fisher's z, widened as in
    `mean`); p is nan.

    Ranks are those of all prompts; nan in either is left out. nan below `FEWEST_GROUPS` groups, or where one is
    constant.
    """
    x, y = _table(first), _table(second)
    kept = ~(np.isnan(x) | np.isnan(y))
    x, y, index = x[kept], y[kept], _groups(groups, len(x))[kept]
    index = np.unique(index, return_inverse=True)[1]
    n = int(index.max()) + 1 if len(index) else 0
    if n < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Estimate.single(np.nan, np.nan, np.nan, n=n)
    a, b = stats.rankdata(x), stats.rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    parts = _sums(np.stack([a * b, a * a, b * b, a, b, np.ones_like(a)], 1), index)
    value = float(_correlation(parts.sum(0)[None])[0])
    if n < FEWEST_GROUPS or abs(value) > 1 - 1e-12:
        return Estimate.single(value, np.nan, np.nan, n=n)
    drawn = np.arctanh(np.clip(_correlation(_resample(n, seed) @ parts), -1 + 1e-12, 1 - 1e-12))
    low, high = np.nanquantile(drawn, stats.norm.cdf([-_reach(n), _reach(n)]))
    return Estimate.single(value, float(np.tanh(low)), float(np.tanh(high)), n=n)


def rank_correlation_value(first: Values, second: Values) -> float:
    """Spearman's correlation over prompts without an interval; nan where one is constant."""
    x, y = _table(first), _table(second)
    kept = ~(np.isnan(x) | np.isnan(y))
    if kept.sum() < 2 or np.ptp(x[kept]) == 0 or np.ptp(y[kept]) == 0:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(x[kept]), stats.rankdata(y[kept]))[0, 1])


def _correlation(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """From sums of ab, aa, bb, a, b and 1."""
    ab, aa, bb, a, b, n = sums.T
    return _divide(n * ab - a * b, np.sqrt(np.maximum((n * aa - a * a) * (n * bb - b * b), 0.0)))


def halves(groups: Values, *, seed: int = 0) -> tuple[Bool[np.ndarray, " prompt"], Bool[np.ndarray, " prompt"]]:
    """Masks of two halves of the prompts that share no group: one to search in, one to confirm on."""
    index = np.unique(np.asarray(groups), return_inverse=True)[1]
    n = int(index.max()) + 1 if len(index) else 0
    if n < 2:
        raise PromptError(f"{n} independent group of prompts cannot be split into halves; give more prompts")
    order = np.random.default_rng(seed).permutation(n)
    first = order[index] < (n + 1) // 2
    return first, ~first


def _table(values: Values) -> NDArray[np.float64]:
    if isinstance(values, Tensor):
        return values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=float)


def _groups(groups: Values | None, n: int) -> NDArray[np.int64]:
    if groups is None:
        return np.arange(n)
    index = np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(index) != n:
        raise PromptError(f"{len(index)} groups were given for {n} prompts; there must be one for each")
    return index


def _sums(table: NDArray[np.float64], index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums over each group, cells flattened: [group, cell]."""
    flat = table.reshape(len(table), -1) if table.size else table.reshape(len(table), int(np.prod(table.shape[1:])))
    found = np.zeros((int(index.max()) + 1 if len(index) else 0, flat.shape[1]))
    np.add.at(found, index, flat)
    return found


def _divide(top: ArrayLike, bottom: ArrayLike) -> NDArray[np.float64]:
    """Quotient; nan over zero."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=np.asarray(bottom) != 0)


def _wilson(share: Any, n: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    z = stats.norm.ppf(0.975)
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # At shares of 0 and 1 the formula touches the end exactly, up to rounding.
    low, high = np.where(share <= 0, 0.0, center - reach), np.where(share >= 1, 1.0, center + reach)
    return np.where(np.isnan(n), np.nan, low), np.where(np.isnan(n), np.nan, high)


@lru_cache(maxsize=6)  # a study estimates many cells over the same number of groups
def _resample(n: int, seed: int) -> NDArray[np.float64]:
    """How often each group is drawn in each bootstrap resample: [resample, group]."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES).astype(float)
    drawn.setflags(write=False)
    return drawn


def _bca(
    tops: NDArray[np.float64],
    bottoms: NDArray[np.float64],
    counts: NDArray[np.bool_],
    value: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends for ratios of the sums of groups; nan where the denominators change sign."""
    lower = weights @ bottoms
    left_out = np.where(counts, _divide(tops.sum(0) - tops, bottoms.sum(0) - bottoms), np.nan)
    low, high = _accelerated(_divide(weights @ tops, lower), value, left_out)
    unsteady = _unsteady(lower, bottoms)
    return np.where(unsteady, np.nan, low), np.where(unsteady, np.nan, high)


def _unsteady(lower: NDArray[np.float64], bottoms: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether resampled denominators [resample, cell] have another sign than that of all groups [group, cell]."""
    return (np.sign(lower) != np.sign(bottoms.sum(0))).mean(0) > 0.01


def _accelerated(
    draws: NDArray[np.float64], value: NDArray[np.float64], left_out: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of BCa intervals from resamples [draw, cell] and from leaving each group out [group, cell], nan where a cell
    lacks the group; nan where all resamples agree."""
    n = (~np.isnan(left_out)).sum(0)
    draws = np.sort(draws, axis=0)  # nan (a resample without value) sorts last
    valid = (~np.isnan(draws)).sum(0)
    tie = np.isclose(draws, value, rtol=1e-9, atol=1e-12)
    below = (((draws < value) & ~tie).sum(0) + 0.5 * tie.sum(0)) / valid
    bias = stats.norm.ppf(np.clip(below, 1e-4, 1 - 1e-4))
    deviation = np.nansum(left_out, 0) / n - left_out
    squares = np.nansum(deviation**2, 0)
    skew = _divide(np.nansum(deviation**3, 0), 6 * squares**1.5)
    reach = _reach(n)
    ends = []
    for z in (-reach, reach):
        level = stats.norm.cdf(bias + (bias + z) / (1 - skew * (bias + z)))
        place = np.clip(np.nan_to_num(level), 0, 1) * (valid - 1)
        floor = np.floor(place).astype(int)
        column = np.arange(draws.shape[1])
        upper = draws[np.minimum(floor + 1, valid - 1), column]
        ends.append(draws[floor, column] + (upper - draws[floor, column]) * (place - floor))
    useless = (tie.sum(0) == valid) | (squares == 0)
    return np.where(useless, np.nan, ends[0]), np.where(useless, np.nan, ends[1])


def _percentiles(draws: NDArray[np.float64], n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of percentile intervals from resamples [draw, cell] of `n` things; nan where all resamples agree."""
    low, high = np.nanquantile(draws, stats.norm.cdf([-_reach(n), _reach(n)]), axis=0)
    agree = np.isclose(low, high, rtol=1e-9, atol=1e-12)
    return np.where(agree, np.nan, low), np.where(agree, np.nan, high)


def _reach(n: Any) -> Any:
    """A normal quantile is too short for few groups: Student's, and the divisor n of the bootstrap's variance."""
    return np.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1)


def _studentized(
    values: Values, groups: Values | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[int, ...]]:
    """Group sums over their root sum of squares [group, cell], their sum [cell], and the cells' shape.

    That sum is a monotone function of Student's t, and its scale does not change with the signs. nan where a cell has
    no value or an infinite one.
    """
    table = _table(values)
    index = _groups(groups, len(table))
    undefined = _sums(np.isinf(table).astype(float), index).sum(0) > 0
    undefined |= _sums((~np.isnan(table)).astype(float), index).sum(0) == 0
    sums = _sums(np.nan_to_num(table, posinf=0.0, neginf=0.0), index)
    standard = np.divide(sums, np.sqrt((sums**2).sum(0)), out=np.zeros_like(sums), where=(sums**2).sum(0) > 0)
    return standard, np.where(undefined, np.nan, standard.sum(0)), table.shape[1:]


def _signs(n: int, seed: int, resamples: int) -> tuple[NDArray[np.float64], bool]:
    """Sign patterns [resample, group], and whether they are all there are."""
    if n and 2**n <= resamples:
        return 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1), True
    bits = np.frombuffer(np.random.default_rng(seed).bytes(resamples * (n // 8 + 1)), dtype=np.uint8)
    flips = np.unpackbits(bits.reshape(resamples, -1), axis=1)[:, :n]
    return 1.0 - 2.0 * flips.astype(np.float64), False
