"""How alike are two representations of the same prompts? Centred kernel alignment, without its bias.

Linear CKA (Kornblith et al., arXiv 1905.00414) compares how prompts lie to each other, so it needs no common basis. Its
plain form nears 1 for any two representations where the width exceeds the number of prompts; here the unbiased
estimator of HSIC is used (Song et al., J. Mach. Learn. Res. 13 (2012) 1393; Nguyen et al., arXiv 2010.15327). Equal in
CKA is not equal in effect: a verdict may turn on a direction of little variance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from interp.errors import PromptError
from interp.estimates import FEWEST_GROUPS, Estimate


def cka(
    first: Float[Tensor, "prompt one"], second: Float[Tensor, "prompt two"], groups: Int[Tensor, " prompt"]
) -> Estimate:
    """Alignment of two representations: 1 where they are equal up to rotation and scale, about 0 for unrelated ones.

    The interval is a jackknife over groups, cut at 1; nan below `FEWEST_GROUPS` groups.
    """
    index = np.unique(groups.numpy(), return_inverse=True)[1]
    n = int(index.max()) + 1
    if len(first) != len(second) or len(first) < 4:
        raise PromptError(f"CKA compares the same prompts, at least 4 of them; got {len(first)} and {len(second)}")
    grams = [_gram(part) for part in (first, second)]
    value = _alignment(*(_hsic(one, other) for one, other in _pairs(*grams)))
    if n < FEWEST_GROUPS:
        return Estimate.single(value, np.nan, np.nan, n=n)
    left = _alignment(*(_hsic_without(one, other, index) for one, other in _pairs(*grams)))
    deviation = left - left.mean()
    error = np.sqrt((n - 1) / n * (deviation**2).sum())
    reach = stats.t.ppf(0.975, n - 1) * error
    return Estimate.single(value, value - reach, min(value + reach, 1.0), n=n)


def _gram(vectors: Tensor) -> np.ndarray:
    x = vectors.detach().cpu().double().numpy()
    gram = (x - x.mean(0)) @ (x - x.mean(0)).T
    np.fill_diagonal(gram, 0.0)
    return gram


def _pairs(one: np.ndarray, other: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    return (one, other), (one, one), (other, other)


def _alignment(both: Any, one: Any, other: Any) -> Any:
    scale = np.sqrt(np.maximum(one, 0.0) * np.maximum(other, 0.0))
    return np.divide(both, scale, out=np.full(np.shape(scale), np.nan), where=scale > 0)[()]


def _hsic(one: np.ndarray, other: np.ndarray) -> float:
    """The unbiased estimator, of Gram matrices with an empty diagonal."""
    sums = one.sum(0), other.sum(0)
    return float(_estimator(len(one), (one * other).sum(), sums[0].sum(), sums[1].sum(), sums[0] @ sums[1]))


def _hsic_without(one: np.ndarray, other: np.ndarray, index: Int[np.ndarray, " prompt"]) -> Float[np.ndarray, " group"]:
    """The same without each group in turn, from sums over the groups."""
    of = np.zeros((len(one), int(index.max()) + 1))
    of[np.arange(len(one)), index] = 1.0
    product, first, second = (
        table.sum() - 2 * of.T @ table.sum(0) + (of.T @ table * of.T).sum(1) for table in (one * other, one, other)
    )
    # Sums of the rows that are left, over the columns that are left.
    rows = [(table.sum(0)[:, None] - table @ of) * (1 - of) for table in (one, other)]
    return _estimator(len(one) - of.sum(0), product, first, second, (rows[0] * rows[1]).sum(0))


def _estimator(n: Any, product: Any, first: Any, second: Any, rows: Any) -> Any:
    return (product + first * second / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows) / (n * (n - 3))
