"""What breaks without a part, or without a step? Zero, mean and resample ablation, one cell of a grid at a time.

A part whose ablation lowers the metric was needed on these prompts; one whose ablation does not may be redundant
(McGrath et al., "The Hydra Effect", arXiv 2307.15771). What is written instead: `models.replacement`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.estimates import Estimate, mean
from interp.metrics import Metric, Targets, which
from interp.models.edits import Edit
from interp.models.load import HookedTransformer
from interp.models.replacement import Kind, replacement
from interp.models.run import MEMORY
from interp.models.sweeps import Axis, Edits, Readout, places, sweep
from interp.prompts import Position, Prompts
from interp.results import grid_frame
from interp.sites import every


@dataclass(frozen=True, eq=False)
class Ablation:
    """Metrics of every prompt without each part."""

    site: str
    kind: Kind
    layers: tuple[int, ...]
    axis: Axis
    columns: tuple[str, ...]
    """Names along the column axis: positions, heads or neurons; `all` for a whole block output."""
    metrics: tuple[str, ...]
    ablated: Float[Tensor, "prompt layer column metric"]
    """Metric without the part; nan where a prompt lacks the position or has no partner of its layout."""
    base: Float[Tensor, "prompt metric"]
    groups: Int[Tensor, " prompt"]

    def drop(self, metric: str | None = None) -> Float[Tensor, "prompt layer column"]:
        """How much lower a metric (by default the first) is without each part; positive where the part helped."""
        index = which(self.metrics, metric)
        return self.base[:, None, None, index] - self.ablated[..., index]

    def importance(self, prompts: Any = slice(None), *, metric: str | None = None) -> Estimate:
        """Mean drop over prompts (a mask or slice), [layer, column]."""
        # pandas gives masks that cannot be written, and torch warns of those it does not copy
        kept = prompts if isinstance(prompts, slice) else torch.tensor(np.asarray(prompts))
        return mean(self.drop(metric)[kept], self.groups[kept])

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt, layer, column and metric."""
        axes = {"layer": self.layers, self.axis: self.columns, "metric": self.metrics}
        frame = grid_frame(axes, ablated=self.ablated)
        prompt = torch.tensor(frame["prompt"].to_numpy())
        metric = torch.tensor([self.metrics.index(name) for name in frame["metric"]])
        return frame.assign(base=self.base[prompt, metric].numpy(), group=self.groups[prompt].numpy())


@dataclass(frozen=True, eq=False)
class StepAblation:
    """Metrics of every prompt with all computation at a position ablated, position by position."""

    sites: tuple[str, ...]
    kind: Kind
    positions: tuple[str, ...]
    metrics: tuple[str, ...]
    ablated: Float[Tensor, "prompt position metric"]
    """nan where a prompt lacks the position or has no partner of its layout."""
    base: Float[Tensor, "prompt metric"]
    reached: Bool[Tensor, "position metric"]
    """Whether the position stands before a token that the metric scores: what stands later cannot change it."""
    groups: Int[Tensor, " prompt"]

    def drop(self) -> Float[Tensor, "prompt position metric"]:
        """How much lower each metric is without the computation at each position, prompt by prompt."""
        return self.base[:, None] - self.ablated

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt, position and metric."""
        return grid_frame({"position": self.positions, "metric": self.metrics}, ablated=self.ablated, drop=self.drop())


def ablation(
    model: HookedTransformer,
    prompts: Prompts,
    *,
    site: str = "z",
    kind: Kind = "mean",
    metrics: Sequence[Metric | str] = ("log_prob", "exact_match"),
    layers: Sequence[int] | None = None,
    positions: Sequence[Position] | None = None,
    units: Sequence[int] | None = None,
    at: Position | None = None,
    targets: Targets | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> Ablation:
    """Ablate every cell of a grid alone: heads (`z`), neurons (`mlp_post`), or a block output (`attn_out`, `mlp_out`).

    A block output is ablated at every token of the prompt, or at each of `positions` alone. `mean` writes the mean over
    the other prompts of the same layout at the same place, `resample` what one of them had there.
    """
    grid = places(model, prompts, site, layers=layers, positions=positions, units=units, at=at)
    whole = grid.axis == "position" and positions is None
    value, missing = replacement(model, prompts, grid.sites, kind, seed=seed, memory=memory)
    cells = [[Edit(s, value)] for s in grid.sites] if whole else grid.cells([value])
    found = sweep(model, Edits(prompts, cells), Readout.of(prompts, metrics, targets), memory=memory, progress=progress)
    ablated = found.values.reshape(len(prompts), len(grid.sites), -1, len(found.metrics))
    ablated = ablated.masked_fill(missing[:, None, None, None], torch.nan)
    if not whole:
        ablated = ablated.masked_fill(grid.absent(prompts)[:, None, :, None], torch.nan)
    names = ("all",) if whole else grid.names
    return Ablation(site, kind, grid.layers, grid.axis, names, found.metrics, ablated, found.base, prompts.groups)


def step_ablation(
    model: HookedTransformer,
    prompts: Prompts,
    positions: Sequence[Position],
    *,
    sites: Sequence[str] = ("attn_out", "mlp_out"),
    kind: Kind = "mean",
    metrics: Sequence[Metric | str] = ("log_prob", "exact_match"),
    layers: Sequence[int] | None = None,
    targets: Targets | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> StepAblation:
    """Ablate all that is computed at one position (every block output of every layer), position after position.

    With `metrics.at_each` it shows which answer tokens a position computes: a position serves those that break. What is
    written in its place is the mean (or another prompt's, or zero): a token that does not break may have had the mean
    right.
    """
    chosen = every(sites, int(model.cfg.n_layers), layers)
    value, missing = replacement(model, prompts, chosen, kind, seed=seed, memory=memory)
    cells = [[Edit(site, value, at=position) for site in chosen] for position in positions]
    readout = Readout.of(prompts, metrics, targets)
    found = sweep(model, Edits(prompts, cells), readout, memory=memory, progress=progress)
    columns = prompts.table(positions)
    before = ((columns[..., None] >= 0) & (columns[..., None] <= prompts.reads[:, None])).any(0)
    reached = [before.any(1) if metric.read is None else before[:, metric.read] for metric in readout.metrics]
    absent = (columns < 0) | missing[:, None]
    return StepAblation(
        tuple(sites), kind, tuple(map(str, positions)), found.metrics,
        found.values.masked_fill(absent[..., None], torch.nan), found.base, torch.stack(reached, 1), prompts.groups,
    )  # fmt: skip
