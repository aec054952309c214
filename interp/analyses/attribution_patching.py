"""Where might a patch change the answer? A first-order estimate of every patch of a grid, from two runs and a gradient.

Attribution patching (Nanda, 2023; Syed et al., arXiv 2310.10348): what stands in the source run less what stands in the
base run, times the gradient of the metric. With integrated gradients (Hanna et al., arXiv 2403.17806) the gradient is
a mean over the straight line between the runs' *inputs*, or between a layer's *activations* at the site, all else as in
the base run. The cells are those of `interp.patching`, which says what really happens: the estimate misses what is not
linear, above all where attention or a norm is saturated (Kramár et al., arXiv 2403.00745). `interp.verified` patches
the largest cells, the saturated ones and random ones, and says how well the two agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from rich.progress import Progress
from torch import Tensor

from interp.errors import ConfigError
from interp.estimates import Estimate, ratio
from interp.metrics import Metric
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY, check_context, check_edits, undisturbed
from interp.models.sweeps import Axis, Places, Readout, places
from interp.models.sweeps.lines import Lines, at_inputs, at_site, lines_between
from interp.prompts import PatchDirection, Position, PromptPairs, Prompts
from interp.results import grid_frame
from interp.sites import Site

Integrate = Literal["inputs", "activations"]
SATURATED = 0.01
"""A cell is flagged where its slope times what the patch changes, the most that the estimate could be, is at most this
share of the clean-corrupted difference, though its activations differ by more than this share of the usual."""


@dataclass(frozen=True, eq=False)
class AttributionPatching:
    """How far each patch would move the metric towards the source run, to first order."""

    site: str
    direction: PatchDirection
    metric: str
    unit: str
    integrate: Integrate | None
    steps: int
    layers: tuple[int, ...]
    axis: Axis
    columns: tuple[str, ...]
    """Names along the last axis: positions, heads or neurons."""
    at: str
    """The one position at which heads or neurons are patched; empty for the whole prompt."""
    values: Float[Tensor, "pair layer column"]
    """In units of the metric; nan where a pair lacks the position or has nothing to score."""
    slope: Float[Tensor, "pair layer column"]
    """Length of the gradient by the cell's activations."""
    apart: Float[Tensor, "pair layer column"]
    """Length of what the patch would change there."""
    clean: Float[Tensor, " pair"]
    corrupted: Float[Tensor, " pair"]
    seen: Bool[Tensor, "pair layer column"]
    """Whether what is read from the model can depend on the cell: whether it stands no later than that, say."""
    groups: Int[Tensor, " pair"]
    path: str
    """Through the network's functions (packed) or the bridge (generic)."""

    @property
    def saturated(self) -> Bool[Tensor, "pair layer column"]:
        """Where the estimate must be small whatever the patch does: hardly any gradient, though activations differ.

        Saturated attention or neurons look like this, and so do cells that the metric does not hang on: patch them.
        """
        usual = self.apart.masked_fill(~self.seen, torch.nan).flatten(1).nanmedian(1).values[:, None, None]
        difference = (self.clean - self.corrupted).abs().nanmean()
        return (self.slope * self.apart <= SATURATED * difference) & (self.apart > SATURATED * usual) & self.seen

    def share(self, pairs: Any = slice(None)) -> Estimate:
        """Each cell's estimate as a share of the clean-corrupted difference: a ratio of means, [layer, column]."""
        return ratio(self.values[pairs], (self.clean - self.corrupted)[pairs], self.groups[pairs])

    def to_frame(self) -> pd.DataFrame:
        """One row for each pair, layer and column."""
        axes = {"layer": self.layers, self.axis: self.columns}
        frame = grid_frame(axes, value=self.values, slope=self.slope, apart=self.apart)
        return frame.rename(columns={"prompt": "pair"})


def attribution_patching(
    model: HookedTransformer,
    pairs: PromptPairs,
    *,
    site: str = "resid_pre",
    direction: PatchDirection = "denoising",
    metric: Metric | str = "logit_diff",
    integrate: Integrate | None = None,
    steps: int = 16,
    layers: Sequence[int] | None = None,
    positions: Sequence[Position] | None = None,
    units: Sequence[int] | None = None,
    at: Position | None = None,
    memory: int = MEMORY,
    progress: bool = False,
) -> AttributionPatching:
    """Estimate the patches of `interp.patching`, whose arguments these are, pair by pair.

    Integration takes `steps` Gauss-Legendre nodes. An architecture whose blocks are not written as functions, and the
    features of attached transcoders, go through the bridge.
    """
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, not {steps}")
    if integrate not in (None, "inputs", "activations"):
        raise ConfigError(f"integrate is None, 'inputs' or 'activations', not {integrate!r}")
    source, base = pairs.source_and_base(direction)
    readout = Readout.of(pairs, [metric])
    check_context(model, base)
    readout.check(model, base)
    grid = places(model, pairs.clean, site, layers=layers, positions=positions, units=units, at=at)
    check_edits(model, grid.sites)
    lines = lines_between(model, base, source, readout, grid.sites, memory=memory)
    count = 1 if integrate is None else steps
    found = torch.full((3, len(pairs), len(grid.sites), len(grid.columns)), torch.nan)
    scores = torch.full((len(pairs), 2), torch.nan)
    with undisturbed(model, gradients=True), Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task("gradients", total=len(pairs))
        for rows in base.lengths.argsort(stable=True).split(lines.rows(count, memory)):
            (here, score), (there, other) = (lines.run(rows, grid.sites, other=side) for side in (False, True))
            scores[rows] = torch.stack([score, other], 1).float().cpu()
            apart = [b - a for a, b in zip(here, there, strict=True)]
            slopes = _slopes(lines, grid.sites, rows, here, apart, integrate, count, memory)
            for layer, (step, slope) in enumerate(zip(apart, slopes, strict=True)):
                for number, one in enumerate((step * slope, slope.square(), step.square())):
                    found[number, rows, layer] = _summed(one, grid, base.take(rows)).float().cpu()
            bar.advance(task, len(rows))
    empty = scores.isnan().any(1)[:, None, None] | grid.absent(base)[:, None]
    values, slope, apart = found[0].masked_fill(empty, torch.nan), *found[1:].masked_fill(empty, torch.nan).sqrt()
    return AttributionPatching(
        site=site,
        direction=direction,
        metric=readout.metrics[0].name,
        unit=readout.metrics[0].unit,
        integrate=integrate,
        steps=count,
        layers=grid.layers,
        axis=grid.axis,
        columns=grid.names,
        at="" if at is None else str(at),
        values=values if direction == "denoising" else -values,
        slope=slope,
        apart=apart,
        clean=scores[:, 1 if direction == "denoising" else 0],
        corrupted=scores[:, 0 if direction == "denoising" else 1],
        seen=torch.stack([_seen(site, grid, base, int(model.cfg.n_layers)) for site in grid.sites], 1) & ~empty,
        groups=pairs.clean.groups,
        path=lines.path,
    )


def _slopes(
    lines: Lines,
    sites: Sequence[Site],
    rows: Int[Tensor, " pair"],
    here: Sequence[Tensor],
    apart: Sequence[Tensor],
    integrate: Integrate | None,
    steps: int,
    memory: int,
) -> Iterator[Tensor]:
    """The mean gradient at each site."""
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(steps))
    alphas, shares = (torch.zeros(1), torch.ones(1)) if integrate is None else ((nodes + 1) / 2, weights / 2)
    if integrate == "activations":
        for site, start, step in zip(sites, here, apart, strict=True):
            yield at_site(lines, rows, site, start, step, alphas, shares, memory)
    else:
        yield from at_inputs(lines, rows, sites, alphas, shares, memory)


def _seen(site: Site, grid: Places, prompts: Prompts, n_layers: int) -> Bool[Tensor, "pair column"]:
    """Which cells stand where the reads can see them: in the last layer, after keys and values, only reads see."""
    columns = torch.arange(prompts.tokens.shape[1])
    if site.layer + 1 < n_layers or site.name in ("resid_pre", "k", "v"):
        reached = columns <= prompts.reads.amax(1, keepdim=True)
    else:
        reached = (columns[:, None] == prompts.reads[:, None]).any(-1)
    if grid.axis == "position":
        at = prompts.table(grid.columns)
        return reached.gather(1, at.clamp(min=0)) & (at >= 0)
    where = prompts.mask if grid.at is None else prompts.columns(grid.at)[:, None] == columns
    return (reached & where).any(1, keepdim=True).expand(-1, len(grid.columns))


def _summed(tensor: Float[Tensor, "pair ..."], grid: Places, prompts: Prompts) -> Float[Tensor, "pair column"]:
    """The sum over all that a cell touches."""
    axes = grid.sites[0].axes
    width = tensor.shape[axes.index("query" if "query" in axes else "pos")]
    if grid.axis == "position":
        columns = prompts.table(grid.columns).to(tensor.device)
        return tensor.sum(-1).gather(1, columns.clamp(0, width - 1)).masked_fill(columns >= width, 0.0)
    touched = prompts.mask[:, :width] if grid.at is None else prompts.columns(grid.at)[:, None] == torch.arange(width)
    unit = grid.sites[0].unit_axis or 0
    position = axes.index("query" if "query" in axes else "pos")
    shape = [1] * tensor.ndim
    shape[0], shape[position] = touched.shape
    others = tuple(i for i in range(1, tensor.ndim) if i != unit)
    kept = (tensor * touched.to(tensor.device).reshape(shape)).sum(others)
    return kept[:, [int(column) for column in grid.columns]]
