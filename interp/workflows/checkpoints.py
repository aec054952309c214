"""When was it learned? Behaviour, trace and cause along the checkpoints of a training run.

At each checkpoint the same prompts are asked again: does the text end after the token, how large is its delta, does
its own direction end a neutral twin, and does the direction of the last checkpoint do so already? Directions come
from one half of the prompts and are tried on the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analyses.deltas import norms_of
from interp.analyses.halting import transfer
from interp.errors import PromptError
from interp.estimates import mean_value
from interp.models.contrast import TwinRuns, depth_name, end_prob, mean_deltas, stream_sites
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY
from interp.results import grid_frame
from interp.sites import Site
from interp.twins import TOKEN, Twins


@dataclass(frozen=True, eq=False)
class AlongTraining:
    """One line for each checkpoint, the last one being the finished model."""

    checkpoints: tuple[str, ...]
    depths: tuple[str, ...]
    end_prob: Float[Tensor, "prompt checkpoint"]
    """Largest probability of the end at the token or up to three tokens after it."""
    neutral_end_prob: Float[Tensor, "prompt checkpoint"]
    """With a random neutral token in its place."""
    norm: Float[Tensor, "prompt checkpoint depth"]
    """Norm of the delta at the token relative to the stream's."""
    null_norm: Float[Tensor, "prompt checkpoint depth"]
    """Mean over the neutral tokens."""
    own: Float[Tensor, "prompt checkpoint"]
    """Probability of the end on neutral twins with the checkpoint's own direction added, at the last one's length."""
    final: Float[Tensor, "prompt checkpoint"]
    """The same with the direction of the last checkpoint."""
    rivals: Float[Tensor, "prompt direction checkpoint"]
    """The same with random directions and then the checkpoint's neutral tokens' own, at that length; nan where the
    prompt holds that token."""
    course: Float[Tensor, " checkpoint"]
    """Mean of `end_prob` less `neutral_end_prob` on the prompts that directions come from: for choosing a
    checkpoint without looking at the others."""
    where: str
    groups: Int[Tensor, " prompt"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt and checkpoint."""
        return grid_frame(
            {"checkpoint": self.checkpoints}, end_prob=self.end_prob, neutral=self.neutral_end_prob, own=self.own,
            final=self.final, rivals=self.rivals.nanmean(1),
        )  # fmt: skip


def along_training(
    models: Iterable[tuple[str, HookedTransformer]],
    searched: Twins,
    tried: Twins,
    site: Site,
    end: int,
    final: Float[Tensor, " d_model"],
    *,
    random_directions: int = 16,
    seed: int = 0,
    memory: int = MEMORY,
) -> AlongTraining:
    """Ask each checkpoint in turn; models are taken one at a time. `final` is the last checkpoint's direction at
    `site`.

    Directions are mean deltas on `searched`; everything is measured on `tried`.
    """
    names, rows, depths, where = [], [], (), ""
    for name, model in models:
        sites = stream_sites(int(model.cfg.n_layers))
        directions = mean_deltas(TwinRuns(model, searched, [site], offsets=(0,), memory=memory))[:, 0, 0]
        norms = norms_of(TwinRuns(model, tried, sites, offsets=(0,), memory=memory))
        moved = transfer(
            model, tried, site, {"final": final, "own": directions[0]}, end, neutral=directions[1:],
            random_directions=random_directions, seed=seed, memory=memory,
        )  # fmt: skip
        depths, where = norms.depths, f"{depth_name(site)}, {TOKEN}"
        names.append(name)
        probs, before = (
            [end_prob(model, asked, end, memory=memory) for asked in (half.prompts, half.partners(seed)[0])]
            for half in (tried, searched)
        )
        rows.append(
            (
                *probs,
                torch.from_numpy(mean_value(before[0] - before[1])).float(),
                norms.values[:, :, 0, 1],
                norms.null[:, :, :, 0, 1].mean(1),
                *moved.values.unbind(1),
                torch.cat([moved.random, moved.neutral], 1),
            )
        )
    if not rows:
        raise PromptError("there is no checkpoint to look at; give at least one")
    with_token, without, course, norm, null, last, mine, random = zip(*rows, strict=True)
    return AlongTraining(
        checkpoints=tuple(names),
        depths=depths,
        end_prob=torch.stack(with_token, 1),
        neutral_end_prob=torch.stack(without, 1),
        norm=torch.stack(norm, 1),
        null_norm=torch.stack(null, 1),
        own=torch.stack(mine, 1),
        final=torch.stack(last, 1),
        rivals=torch.stack(random, 2),
        course=torch.stack(course),
        where=where,
        groups=tried.prompts.groups,
    )
