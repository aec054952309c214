"""What an ablation writes: zeros, the mean over like prompts, or what one of them had there.

Zero ablation moves the model off its own distribution; mean and resample ablation keep to it (Chan et al., "Causal
Scrubbing", 2022). Means and resampled values come from prompts of the same layout, place by place: what is erased is
what distinguishes the prompts, not where tokens stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError, PromptError
from interp.models.edits import Copy, Edit, Value, Zero
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY
from interp.models.sweeps import unedited
from interp.prompts import Prompts
from interp.sites import Site
from interp.tensors import Activations

Kind = Literal["zero", "mean", "resample"]

Parts = Sequence[tuple[int, int]]
"""Heads or neurons, as (layer, number)."""


def replacement(
    model: HookedTransformer,
    prompts: Prompts,
    sites: Sequence[Site],
    kind: Kind,
    *,
    seed: int = 0,
    memory: int = MEMORY,
) -> tuple[Value, Bool[Tensor, " prompt"]]:
    """What an ablation writes, and which prompts it has nothing for (none other is of their layout)."""
    if kind not in ("zero", "mean", "resample"):
        raise ConfigError(f"ablation is zero, mean or resample, not {kind!r}")
    if kind == "zero":
        return Zero(), torch.zeros(len(prompts), dtype=torch.bool)
    if kind == "resample":
        rows = prompts.partners(seed)
        if bool((rows < 0).all()):
            raise PromptError("no two prompts have the same layout, so there is nothing to resample from; use zero")
        return Copy(unedited(model, prompts, sites, memory=memory), rows.clamp(min=0)), rows < 0
    layout = prompts.layout
    missing = torch.bincount(layout)[layout] < 2
    if bool(missing.all()):
        raise PromptError("no two prompts have the same layout, so there is no mean to write; use zero")
    kept = unedited(model, prompts, sites, memory=memory)
    means = {site: _mean_of_others(kept[site], layout) for site in sites}
    return Copy(Activations(prompts, means, kept.n_layers)), missing


def together(site: str, value: Value, parts: Parts) -> list[Edit]:
    """The edits that ablate several heads or neurons at once."""
    layers = sorted({layer for layer, _ in parts})
    return [Edit(Site(site, at), value, units=sorted(unit for layer, unit in parts if layer == at)) for at in layers]


def _mean_of_others(tensor: Float[Tensor, "prompt ..."], layout: Int[Tensor, " prompt"]) -> Float[Tensor, "prompt ..."]:
    """For each prompt the mean over the others of its layout, place by place."""
    index = layout.to(tensor.device)
    sums = torch.zeros(int(layout.max()) + 1, *tensor.shape[1:], dtype=tensor.dtype, device=tensor.device)
    sums.index_add_(0, index, tensor)
    others = torch.bincount(index)[index].sub(1).clamp(min=1)
    return (sums[index] - tensor) / others.reshape(-1, *[1] * (tensor.ndim - 1)).to(tensor.dtype)
