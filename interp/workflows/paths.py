"""Where do safe and unsafe part? Distances by depth, and the layer whose patching moves the verdict.

A safe and an unsafe prompt that differ in one word part at the embedding and stay apart: where their distance is
largest says little of where the verdict is made. So each layer's own output (attention and MLP, at every token) is
copied from the unsafe twin into the safe prompt and back: a layer matters as far as that moves the log-odds towards the
twin's. Swapping the labels within pairs gives the null, the largest layer inside it. What a copy does merely by
breaking the prompt shows in the control: copies from a twin with another word and the same verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import PromptError
from interp.estimates import Estimate, difference, halves, max_t, mean, mean_value
from interp.models.edits import Copy, Edit
from interp.models.judge import LOG_ODDS, Judge
from interp.models.run import MEMORY, batch_rows, capture
from interp.models.sweeps import Edits, sweep
from interp.prompts import PromptPairs, Prompts
from interp.results import grid_frame
from interp.sites import Site
from interp.tensors import Activations

OUTPUTS = ("attn_out", "mlp_out")
"""What a layer adds to the stream."""


@dataclass(frozen=True, eq=False)
class SafeUnsafePaths:
    """Pairs of a safe and an unsafe prompt: how far apart they are, and what copying a layer between them moves."""

    layers: tuple[int, ...]
    distance: Float[Tensor, "pair depth"]
    """Length of the difference at the verdict's position over the mean length of both, before layer 0 and after each
    layer."""
    cosine: Float[Tensor, "pair depth"]
    to_unsafe: Float[Tensor, "pair layer"]
    """Change of the safe prompt's log-odds of unsafe where a layer's output is the unsafe twin's; nats."""
    to_safe: Float[Tensor, "pair layer"]
    """Fall of the unsafe prompt's log-odds where a layer's output is the safe twin's; nats."""
    control: Float[Tensor, "pair layer"]
    """As `to_unsafe`, from a twin with another word and the same verdict; nan without such twins."""
    gap: Float[Tensor, " pair"]
    """Log-odds of the unsafe prompt less those of the safe one."""
    groups: Int[Tensor, " pair"]

    @property
    def moved(self) -> Float[Tensor, "pair layer"]:
        """Mean of both directions: how far a layer's output carries the verdict from one twin to the other."""
        return (self.to_unsafe + self.to_safe) / 2

    def effect(self) -> Estimate:
        """Nats moved by each layer; p by swapping the labels within pairs, corrected for all layers."""
        found = mean(self.moved, self.groups)
        return Estimate(found.value, found.low, found.high, max_t(self.moved, self.groups), found.n)

    @property
    def naive(self) -> int:
        """The layer after which the mean distance is largest: what a distance alone would call critical."""
        return int(mean_value(self.distance[:, 1:]).argmax())

    def critical(self, seed: int = 0) -> CriticalLayer:
        """The layer that moves most on one half of the groups, measured on the other half beside all others."""
        first, second = (torch.from_numpy(half) for half in halves(self.groups, seed=seed))
        at = int(np.argmax(mean_value(self.moved[first])))
        moved, groups = self.moved[second], self.groups[second]
        there, erased = self.to_unsafe[second][:, at], self.control[second][:, at]
        gaps = [difference(moved[:, at], moved[:, i], groups) for i in range(len(self.layers)) if i != at]
        return CriticalLayer(
            self.layers[at],
            mean(moved[:, at], groups),
            mean(there, groups),
            mean(erased, groups),
            difference(there, erased, groups),
            min(gaps, key=lambda gap: float(gap.value if np.isnan(gap.low) else gap.low), default=None),
            float(self.effect().p[at]),
            self.naive,
        )

    def to_frame(self) -> pd.DataFrame:
        """One row for each pair and layer."""
        columns = {name: getattr(self, name) for name in ("to_unsafe", "to_safe", "control")}
        depths = [layer + 1 for layer in self.layers]
        after = {"distance": self.distance[:, depths], "cosine": self.cosine[:, depths]}
        frame = grid_frame({"layer": self.layers}, **columns, **after)
        pair = torch.tensor(frame["prompt"].to_numpy())
        return frame.rename(columns={"prompt": "pair"}).assign(gap=self.gap[pair].numpy())


@dataclass(frozen=True, eq=False)
class CriticalLayer:
    """The layer whose patching moves the verdict most."""

    layer: int
    effect: Estimate
    """Nats moved, mean of both directions, on prompts that the choice did not see."""
    to_unsafe: Estimate
    """Nats moved towards unsafe there."""
    control: Estimate
    """Nats that copies from a twin with another word and the same verdict move there."""
    beyond_control: Estimate
    """`to_unsafe` less `control`, pair by pair."""
    beyond_next: Estimate | None
    """`effect` less that of the other layer that comes nearest (by the interval's lower end: it is above 0 where the
    layer moves more than each other one); None for a model of one layer."""
    p: float
    """Of no layer moving anything, by swapped labels, corrected for all layers."""
    naive: int
    """The layer that the distance alone would name."""

    @property
    def warning(self) -> str:
        """What to say where the distance names another layer; empty where it does not."""
        if self.naive == self.layer:
            return ""
        return (
            f"The distance between safe and unsafe prompts is largest after layer {self.naive}, but copying layer "
            f"{self.layer} moves the verdict most: distance is no sign of where the verdict is made."
        )


def safe_unsafe_paths(
    judge: Judge,
    unsafe: Prompts,
    safe: Prompts,
    *,
    neutral: Prompts | None = None,
    layers: Sequence[int] | None = None,
    memory: int = MEMORY,
    progress: bool = False,
) -> SafeUnsafePaths:
    """Compare pairs that `judge.prompts` made: `unsafe[i]` and `safe[i]` differ in a word and have equally many tokens.

    `neutral[i]` is a further safe twin, with another word in the same place: the control. Raises PromptError where
    pairs do not align.
    """
    pairs = PromptPairs(unsafe, safe)
    if neutral is not None and (len(neutral) != len(safe) or not torch.equal(neutral.lengths, safe.lengths)):
        raise PromptError("the neutral twins must be as many as the pairs, and of their lengths")
    chosen = tuple(range(int(judge.model.cfg.n_layers))) if layers is None else tuple(layers)
    size = max(1, batch_rows(judge.model, unsafe.tokens.shape[1], 1, memory) // int(judge.model.cfg.n_layers))
    if len(pairs) > size:  # what is copied is kept for all layers: some pairs at a time
        parts = [
            safe_unsafe_paths(
                judge, unsafe.take(rows), safe.take(rows), neutral=None if neutral is None else neutral.take(rows),
                layers=layers, memory=memory, progress=progress,
            )
            for rows in torch.arange(len(pairs)).split(size)
        ]  # fmt: skip
        joined = {
            one.name: torch.cat([getattr(part, one.name) for part in parts]) for one in fields(SafeUnsafePaths)[1:]
        }
        return SafeUnsafePaths(chosen, **joined)
    stream = ["resid_pre", Site("resid_post", int(judge.model.cfg.n_layers) - 1)]
    outputs = [Site(name, layer) for layer in chosen for name in OUTPUTS]
    sides = [capture(judge.model, side, [*stream, *outputs, "logits"], memory=memory) for side in (unsafe, safe)]
    odds = [LOG_ODDS.score(found["logits"], judge.targets(found.prompts)).cpu() for found in sides]
    at = torch.arange(len(pairs)), slice(None), unsafe.columns("verdict")
    high, low = (found.residual().float().cpu()[at] for found in sides)
    length = (high.norm(dim=-1) + low.norm(dim=-1)) / 2

    def moved(base: Prompts, source: Activations) -> Float[Tensor, "pair layer"]:
        value = Copy(source)
        cells = [[Edit(Site(name, layer), value) for name in OUTPUTS] for layer in chosen]
        found = sweep(judge.model, Edits(base, cells), judge.readout(base), memory=memory, progress=progress)
        return found.values[..., 0] - found.base

    blank: Any = torch.full((len(pairs), len(chosen)), torch.nan)
    return SafeUnsafePaths(
        layers=chosen,
        distance=(high - low).norm(dim=-1) / length,
        cosine=torch.nn.functional.cosine_similarity(high, low, dim=-1),
        to_unsafe=moved(safe, sides[0]),
        to_safe=-moved(unsafe, sides[1]),
        control=blank if neutral is None else moved(safe, capture(judge.model, neutral, outputs, memory=memory)),
        gap=odds[0] - odds[1],
        groups=pairs.clean.groups,
    )
