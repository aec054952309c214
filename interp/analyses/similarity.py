"""How alike are two representations of the same prompts? Centred kernel alignment, without its bias.

Linear CKA (Kornblith et al., arXiv 1905.00414) compares how prompts lie to each other, so it needs no common basis. Its
plain form nears 1 for any two representations where the width exceeds the number of prompts; here the unbiased
estimator of HSIC is used (Song et al., J. Mach. Learn. Res. 13 (2012) 1393; Nguyen et al., arXiv 2010.15327). Equal in
CKA is not equal in effect: a verdict may turn on a direction of little variance.
"""

from __future__ import annotations

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
    value = _unbiased(*grams)
    if n < FEWEST_GROUPS:
        return Estimate.single(value, np.nan, np.nan, n=n)
    left = []
    for group in range(n):
        kept = np.flatnonzero(index != group)
        left.append(_unbiased(*(gram[np.ix_(kept, kept)] for gram in grams)))
    deviation = np.asarray(left) - np.mean(left)
    error = np.sqrt((n - 1) / n * (deviation**2).sum())
    reach = stats.t.ppf(0.975, n - 1) * error
    return Estimate.single(value, value - reach, min(value + reach, 1.0), n=n)


def _gram(vectors: Tensor) -> np.ndarray:
    x = vectors.detach().cpu().double().numpy()
    gram = (x - x.mean(0)) @ (x - x.mean(0)).T
    np.fill_diagonal(gram, 0.0)
    return gram


def _unbiased(one: np.ndarray, other: np.ndarray) -> float:
    scale = np.sqrt(max(_hsic(one, one), 0.0) * max(_hsic(other, other), 0.0))
    return float(_hsic(one, other) / scale) if scale > 0 else float("nan")


def _hsic(one: np.ndarray, other: np.ndarray) -> float:
    """The unbiased estimator, of Gram matrices with an empty diagonal."""
    n = len(one)
    sums = one.sum(0), other.sum(0)
    whole = (one * other).sum() + sums[0].sum() * sums[1].sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * sums[0] @ sums[1]
    return float(whole / (n * (n - 3)))
