"""At which depth are two classes of prompts apart? Scores along the difference of means, learned on other prompts.

At each depth the direction is the difference of the two classes' means (mass-mean probing; Marks & Tegmark, arXiv
2310.06824) on one half of the prompts; the other half is scored along it. Random networks separate prompts too: compare
with an untrained model. Separated is not used: patching says where the verdict comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import PromptError
from interp.estimates import Estimate, halves, proportion
from interp.prompts import Position
from interp.results import grid_frame
from interp.tensors import Activations


@dataclass(frozen=True, eq=False)
class Separation:
    """Prompts along the directions that tell the classes apart, depth by depth."""

    position: str
    depths: tuple[str, ...]
    """embed, layer 0, layer 1 ...: the stream before the first layer and after each."""
    scores: Float[Tensor, "prompt depth"]
    """Distance from the midpoint of the other half's means along their difference, in standard deviations within the
    classes; above 0 on the side of the positive class. nan where a prompt lacks the position."""
    positive: Bool[Tensor, " prompt"]
    """The class of each prompt."""
    groups: Int[Tensor, " prompt"]

    @property
    def right(self) -> Float[Tensor, "prompt depth"]:
        """1 where a prompt lies on its own class's side."""
        told = ((self.scores > 0) == self.positive[:, None]).float()
        return told.masked_fill(self.scores.isnan(), torch.nan)

    def accuracy(self) -> Estimate:
        """Share of prompts on their own side at each depth; where both classes are equally many, .5 is chance."""
        return proportion(self.right, self.groups)

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt and depth."""
        frame = grid_frame({"depth": self.depths}, score=self.scores, right=self.right)
        return frame.assign(positive=self.positive[torch.tensor(frame["prompt"].to_numpy())].numpy())


def separation(
    activations: Activations, positive: Sequence[bool] | Bool[Tensor, " prompt"], *, position: Position, seed: int = 0
) -> Separation:
    """Score every prompt along a direction from prompts of other groups. Needs `resid_pre` of every layer and the last
    `resid_post`.

    Raises PromptError where a half of the groups lacks one of the classes.
    """
    prompts = activations.prompts
    label = torch.as_tensor(positive, dtype=torch.bool)
    if len(label) != len(prompts):
        raise PromptError(f"{len(label)} labels do not fit {len(prompts)} prompts")
    columns = prompts.columns(position)
    stream = activations.residual().float().cpu()
    vectors = stream[torch.arange(len(prompts)), :, columns.clamp(min=0)]
    vectors = vectors.masked_fill((columns < 0)[:, None, None], torch.nan)
    there = columns >= 0
    scores = torch.full(vectors.shape[:2], torch.nan)
    first, second = (torch.from_numpy(half) for half in halves(prompts.groups, seed=seed))
    for learned, scored in ((first, second), (second, first)):
        sides = [vectors[learned & there & (label == side)] for side in (True, False)]
        if min(map(len, sides)) < 2:
            raise PromptError("each half of the groups needs two prompts of either class; give more prompts")
        means = [side.mean(0) for side in sides]
        way = torch.nn.functional.normalize(means[0] - means[1], dim=-1)
        along = [((side - mean) * way).sum(-1) for side, mean in zip(sides, means, strict=True)]
        spread = (torch.cat(along).square().sum(0) / (len(torch.cat(along)) - 2)).sqrt()
        scores[scored] = ((vectors[scored] - (means[0] + means[1]) / 2) * way).sum(-1) / spread
    names = ("embed", *(f"layer {layer}" for layer in range(activations.n_layers)))
    scores = scores.masked_fill(scores.isinf(), torch.nan)
    return Separation(str(position), names, scores, label, prompts.groups)
