"""Which neurons (or heads' outputs) tell a label apart? Effect size, permutation p, and confirmation on other prompts.

Among thousands of neurons some differ between any two sets of prompts. So the effect is tested against labels dealt out
anew among the groups, all p values are corrected together (Benjamini & Hochberg, J. R. Stat. Soc. B 57 (1995) 289), and
what is found on one half of the prompts is measured on the other. Selective is not used: ablate to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from interp.errors import ConfigError, PromptError
from interp.estimates import dealt_often, halves
from interp.prompts import Position
from interp.tensors import Activations

_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Selectivity:
    """How well each neuron tells the values of a label apart, on both halves of the prompts."""

    label: str
    classes: tuple[str, ...]
    position: str
    layers: tuple[int, ...]
    effect: Float[Tensor, "layer neuron"]
    """Share of a neuron's variance that lies between the label's values (eta squared), on the searching half."""
    p: Float[Tensor, "layer neuron"]
    """Permutation p on the searching half."""
    q: Float[Tensor, "layer neuron"]
    """The same after Benjamini and Hochberg over all neurons."""
    confirmed_effect: Float[Tensor, "layer neuron"]
    """Eta squared on the other half: free of the choice."""
    confirmed_p: Float[Tensor, "layer neuron"]
    prefers: Int[Tensor, "layer neuron"]
    """The class with the highest mean activation, on all prompts."""
    n: int
    """Groups on the searching half."""

    def found(self, *, minimum: float = 0.1, level: float = 0.05) -> Bool[Tensor, "layer neuron"]:
        """Neurons found on one half (q at most `level`, effect at least `minimum`) and confirmed on the other.

        Confirmed: effect at least `minimum` again, and p at most `level` after Benjamini and Hochberg over those found.
        """
        first = (self.q <= level) & (self.effect >= minimum)
        confirmed = torch.zeros_like(first)
        if bool(first.any()):
            again = stats.false_discovery_control(self.confirmed_p[first].double().numpy())
            confirmed[first] = torch.from_numpy(again <= level)
        return confirmed & (self.confirmed_effect >= minimum)

    def to_frame(self) -> pd.DataFrame:
        """One row for each neuron."""
        shape = self.effect.shape
        index = pd.MultiIndex.from_product([self.layers, range(shape[1])], names=["layer", "neuron"])
        columns = ("effect", "p", "q", "confirmed_effect", "confirmed_p")
        flat = {name: getattr(self, name).reshape(-1).numpy() for name in columns}
        names = dict(enumerate(self.classes))
        prefers = [names.get(i, "") for i in self.prefers.reshape(-1).tolist()]
        return pd.DataFrame({**flat, "prefers": prefers}, index=index).reset_index()


def selectivity(
    activations: Activations,
    label: str,
    *,
    at: Position,
    site: str = "mlp_post",
    layers: Sequence[int] | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> Selectivity:
    """Test every neuron at one position for a label column of the prompts. Needs the site in the activations.

    The smallest p is 1 / (permutations + 1): with thousands of neurons 999 permutations may be too few for anything to
    pass the correction.
    """
    if permutations < 99:
        raise ConfigError(f"{permutations} permutations cannot show a p of 0.01; use at least 99")
    prompts = activations.prompts
    codes, classes = prompts.coded(label)
    chosen = activations.layers(site) if layers is None else list(layers)
    if not chosen:
        raise ConfigError(f"{site} was not captured; name it in `capture`")
    table = torch.stack([activations.at(site, layer, [at])[:, 0] for layer in chosen], 1).float().cpu()
    x = table.reshape(len(prompts), len(chosen), -1)
    there = (codes >= 0) & ~torch.isnan(x).flatten(1).any(1).numpy()
    groups = prompts.groups.numpy()
    if len(np.unique(codes[there])) < 2 or len(np.unique(groups[there])) < 16:
        raise PromptError(f"the label {label!r} at {at!r} needs two values and 16 groups of prompts to be told apart")
    rng = np.random.default_rng(seed)
    flat = x.flatten(1).numpy().astype(np.float64)
    parts, both = [], halves(groups, seed=seed)
    for half in both:
        rows = there & half
        parts.append(_tested(flat[rows], codes[rows], groups[rows], len(classes), permutations, rng))
    (effect, p), (confirmed_effect, confirmed_p) = parts
    means = np.stack([_mean(flat[there & (codes == i)]) for i in range(len(classes))])
    shape = x.shape[1:]
    grids = (effect, p, stats.false_discovery_control(p), confirmed_effect, confirmed_p)
    found = [torch.from_numpy(grid).float().reshape(shape) for grid in grids]
    prefers = torch.from_numpy(np.nanargmax(means, axis=0)).reshape(shape)
    n = len(np.unique(groups[there & both[0]]))
    return Selectivity(label, classes, str(at), tuple(chosen), *found, prefers=prefers, n=n)


def _mean(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows.mean(0) if len(rows) else np.full(rows.shape[1], -np.inf)


def _tested(
    x: NDArray[np.float64],
    codes: NDArray[np.int64],
    groups: NDArray[np.int64],
    n_classes: int,
    permutations: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eta squared of every column, and its permutation p; a column that never varies has 0 and 1."""
    x = x - x.mean(0)
    observed = _eta(x, codes[None], n_classes)[0]
    exceeded = np.zeros(len(observed))
    for first in range(0, permutations, _AT_ONCE):
        shuffled = dealt_often(codes, groups, rng, min(_AT_ONCE, permutations - first))
        exceeded += (_eta(x, shuffled, n_classes) >= observed * (1 - 1e-9)).sum(0)
    return observed, (1 + exceeded) / (1 + permutations)


def _eta(x: NDArray[np.float64], codes: NDArray[np.int64], n_classes: int) -> NDArray[np.float64]:
    """Between-class share of the variance, for each row of codes: [labelling, column]. x has mean 0."""
    members = (codes[:, None] == np.arange(n_classes)[None, :, None]).astype(float)  # labelling, class, prompt
    sums = (members.reshape(-1, len(x)) @ x).reshape(*members.shape[:2], -1)  # one product: many times faster
    between = np.einsum("lcn,lc->ln", sums**2, 1 / np.maximum(members.sum(2), 1))
    total = (x**2).sum(0)
    return np.divide(between, total, out=np.zeros_like(between), where=total > 1e-12)
