"""Where is the information that decides between two answers? Activation patching over a grid of places.

Sources: Meng et al. (arXiv 2202.05262); Heimersheim & Nanda, "How to use and interpret activation patching" (arXiv
2404.15255); Zhang & Nanda, "Towards Best Practices" (arXiv 2309.16042). Denoising runs the corrupted prompt with clean
activations in one place: what the place carries is *sufficient* to bring the answer back. Noising runs the clean prompt
with corrupted ones: what it carries is *necessary*.

A patch can move a logit difference towards zero merely by erasing what was there. The control therefore patches from
another pair of the same layout that differs in what decides the answer (`differ`): it erases as much and brings the
wrong information.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.estimates import Estimate, ratio
from interp.metrics import Metric
from interp.models.edits import Copy
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY
from interp.models.sweeps import Axis, Edits, Readout, places, runs_of, sweep, unedited
from interp.prompts import PatchDirection, Position, PromptPairs, Prompts
from interp.results import grid_frame


@dataclass(frozen=True, eq=False)
class Patching:
    """Raw metric of every pair under every patch; what was recovered is derived from it."""

    site: str
    direction: PatchDirection
    metric: str
    unit: str
    layers: tuple[int, ...]
    axis: Axis
    columns: tuple[str, ...]
    """Names along the last axis: positions, heads or neurons."""
    patched: Float[Tensor, "pair layer column"]
    """Metric under the patch; nan where a pair lacks the position."""
    control: Float[Tensor, "pair layer column"]
    """Metric under a patch from another pair; nan where there is no fitting one."""
    differs: str
    """What the control's pairs differ in, besides the answer."""
    clean: Float[Tensor, " pair"]
    corrupted: Float[Tensor, " pair"]
    groups: Int[Tensor, " pair"]
    threshold: float
    """Pairs whose clean and corrupted metrics differ by less than this share of the mean difference have no ratio."""

    @property
    def moved(self) -> Float[Tensor, "pair layer column"]:
        """How far each patch moves the metric towards the source run, in units of the metric."""
        return self._towards(self.patched)

    @property
    def control_moved(self) -> Float[Tensor, "pair layer column"]:
        """The same for the control's patches."""
        return self._towards(self.control)

    def _towards(self, values: Float[Tensor, "pair layer column"]) -> Float[Tensor, "pair layer column"]:
        if self.direction == "denoising":
            return values - self.corrupted[:, None, None]
        return self.clean[:, None, None] - values

    @property
    def share_per_pair(self) -> Float[Tensor, "pair layer column"]:
        """Moved over the clean-corrupted difference, pair by pair; nan where that nearly vanishes."""
        difference = self.clean - self.corrupted
        small = difference.abs() < self.threshold * difference.abs().nanmean()
        return self.moved / difference.masked_fill(small, torch.nan)[:, None, None]

    def share(
        self, pairs: Any = slice(None), *, control: bool = False, cell: tuple[int, int] | None = None
    ) -> Estimate:
        """Share of the clean-corrupted difference that each patch moves: a ratio of means, [layer, column].

        0 is no effect and 1 the whole difference. Shares of different cells do not add up. `pairs` is a mask or a
        slice, `cell` (indices of layer and column) asks for one cell alone.
        """
        return self._ratio(self.control_moved if control else self.moved, pairs, cell)

    def excess(self, pairs: Any = slice(None), *, cell: tuple[int, int] | None = None) -> Estimate:
        """Share moved by the patch minus share moved by the control, on the pairs that have both."""
        return self._ratio(self.moved - self.control_moved, pairs, cell)

    def _ratio(self, moved: Float[Tensor, "pair layer column"], pairs: Any, cell: tuple[int, int] | None) -> Estimate:
        part = moved[pairs] if cell is None else moved[pairs][:, cell[0], cell[1]]
        return ratio(part, (self.clean - self.corrupted)[pairs], self.groups[pairs])

    def to_frame(self) -> pd.DataFrame:
        """One row for each pair, layer and column."""
        frame = grid_frame(
            {"layer": self.layers, self.axis: self.columns},
            patched=self.patched,
            control=self.control,
            share=self.share_per_pair,
        )
        pair = torch.tensor(frame["prompt"].to_numpy())
        return frame.rename(columns={"prompt": "pair"}).assign(
            clean=self.clean[pair].numpy(), corrupted=self.corrupted[pair].numpy(), group=self.groups[pair].numpy()
        )


def patching(
    model: HookedTransformer,
    pairs: PromptPairs,
    *,
    site: str = "resid_pre",
    direction: PatchDirection = "denoising",
    metric: Metric | str = "logit_diff",
    layers: Sequence[int] | None = None,
    positions: Sequence[Position] | None = None,
    units: Sequence[int] | None = None,
    at: Position | None = None,
    control: bool = True,
    differ: str | None = None,
    threshold: float = 0.05,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> Patching:
    """Patch a site over layers x positions (streams and block outputs) or layers x heads or neurons.

    `site` is resid_pre, resid_mid, resid_post, attn_out or mlp_out, whose second axis is `positions` (roles or
    indices; by default every column of the longest prompt), or z, pattern, q, k, v or mlp_post, whose second axis is
    `units` (heads or neurons; by default all), over the whole prompt or at the one position `at` (for pattern, of the
    query). `metric` needs `logit_diff`'s sign: high for the clean answer. With `control` every cell is also patched
    from another pair's source prompt of the same layout, whose answer is neither of the pair's own two and whose label
    `differ` (a column of the labels, by default `decides` where there is one) is another.
    """
    source, base = pairs.source_and_base(direction)
    readout = Readout.of(pairs, [metric])
    chosen = readout.metrics[0]
    grid = places(model, pairs.clean, site, layers=layers, positions=positions, units=units, at=at)
    runs = runs_of(model, source, memory=memory)
    kept = unedited(model, source, [*grid.sites, "logits"], memory=memory, runs=runs)
    decides = "decides" if differ is None and "decides" in pairs.clean.labels else differ
    if decides is not None:
        source.coded(decides)
    values, partners = [Copy(kept)], torch.full((len(pairs),), -1)
    if control:
        partners = _partners(source, (pairs.clean.answers, pairs.corrupted.answers), decides, seed)
        values.append(Copy(kept, partners.clamp(min=0)))
    found = sweep(model, Edits(base, grid.cells(values)), readout, memory=memory, like=runs, progress=progress)
    cells = found.values[:, :, 0].reshape(len(pairs), len(values), len(grid.sites), len(grid.columns))
    cells = cells.masked_fill(grid.absent(base)[:, None, None, :], torch.nan)
    again = readout.score(kept["logits"], torch.arange(len(pairs), device=kept["logits"].device))[:, 0].cpu()
    clean, corrupted = (again, found.base[:, 0]) if direction == "denoising" else (found.base[:, 0], again)
    other = torch.full_like(cells[:, 0], torch.nan)
    if control:
        other = cells[:, 1].masked_fill((partners < 0)[:, None, None], torch.nan)
    return Patching(
        site=site,
        direction=direction,
        metric=chosen.name,
        unit=chosen.unit,
        layers=grid.layers,
        axis=grid.axis,
        columns=grid.names,
        patched=cells[:, 0],
        control=other,
        differs=decides or "",
        clean=clean,
        corrupted=corrupted,
        groups=pairs.clean.groups,
        threshold=threshold,
    )


def _partners(
    source: Prompts, own: tuple[Int[Tensor, "pair read"], ...], decides: str | None, seed: int
) -> Int[Tensor, " pair"]:
    """For each pair another one whose source run brings the wrong information; -1 where there is none.

    It has the same layout and is of another group; what its source prompt would answer is neither of the pair's own two
    answers, and the source prompts' labels `decides` differ.
    """
    label = torch.arange(len(source))
    if decides is not None:
        label = torch.from_numpy(source.coded(decides)[0])

    def fits(members: Tensor) -> Tensor:
        allowed = label[members][:, None] != label[members][None]
        for answers in own:
            allowed &= (answers[members][:, None] != source.answers[members][None]).any(-1)
        return allowed

    return source.partners(seed, fits)
