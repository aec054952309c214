"""Which heads do a known job? Attention from some queries to some keys, against uniform attention.

Previous-token, duplicate-token and induction heads are those of Olsson et al., "In-context Learning and Induction
Heads" (arXiv 2209.11895); any other job is a rule that marks the keys a query should look at (`attends`). A high score
says where a head looks, not that the model uses it. Untrained heads are not a null of zero: compare with
`models.load.untrained` through `workflows.selection.learned_head`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from interp.errors import ConfigError
from interp.models.harvest import harvest
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY
from interp.prompts import Position, Prompts
from interp.results import grid_frame
from interp.tensors import Activations

Job = Callable[[Prompts], Bool[Tensor, "prompt query key"]]
"""Marks, for each query that has the job, the keys it should look at."""


@dataclass(frozen=True, eq=False)
class HeadScores:
    """Attention on the keys of each job, averaged over the queries that have it."""

    scores: tuple[str, ...]
    layers: tuple[int, ...]
    values: Float[Tensor, "prompt layer head score"]
    """Share of attention, 0 to 1; nan where a prompt has no query with the job."""
    uniform: Float[Tensor, "prompt score"]
    """The same if attention were uniform over all keys up to the query (too low for a layer with a sliding window)."""
    groups: Int[Tensor, " prompt"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt, layer, head and score, with what uniform attention gives."""
        axes = {"layer": self.layers, "head": range(self.values.shape[2]), "score": self.scores}
        uniform = self.uniform[:, None, None].expand_as(self.values)
        return grid_frame(axes, value=self.values, uniform=uniform)


def previous_token(prompts: Prompts) -> Bool[Tensor, "prompt query key"]:
    """Look at the token before."""
    place = torch.arange(prompts.tokens.shape[1])
    return (place[:, None] - 1 == place[None, :]) & prompts.mask[:, :, None]


def duplicate_token(prompts: Prompts) -> Bool[Tensor, "prompt query key"]:
    """Look at earlier occurrences of the same token."""
    same = prompts.tokens[:, :, None] == prompts.tokens[:, None, :]
    return same & _earlier(prompts)


def induction(prompts: Prompts) -> Bool[Tensor, "prompt query key"]:
    """Look at what came after an earlier occurrence of the same token."""
    tokens = prompts.tokens
    before = torch.cat([torch.full((len(tokens), 1), -1), tokens[:, :-1]], 1)
    return (tokens[:, :, None] == before[:, None, :]) & _earlier(prompts)


def attends(jobs: Mapping[str, Sequence[Position]]) -> Job:
    """From each query role to its key roles: `attends({"predict.answer.ones": ["a.ones", "b.ones"]})`.

    A query counts in a prompt that has all of its keys at or before it.
    """

    def mark(prompts: Prompts) -> Bool[Tensor, "prompt query key"]:
        n, width = prompts.tokens.shape
        marked = torch.zeros(n, width, width, dtype=torch.bool)
        rows = torch.arange(n)
        for query, keys in jobs.items():
            at, table = prompts.columns(query), prompts.table(keys)
            whole = (at >= 0) & (table >= 0).all(1) & (table <= at[:, None]).all(1)
            for column in table.T:
                marked[rows[whole], at[whole], column[whole]] = True
        return marked

    return mark


COMMON: dict[str, Job] = {
    "previous token": previous_token,
    "duplicate token": duplicate_token,
    "induction": induction,
}


def head_scores(
    activations: Activations | Prompts,
    jobs: Mapping[str, Job] | None = None,
    *,
    track: Sequence[Position] | None = None,
    model: HookedTransformer | None = None,
    memory: int = MEMORY,
) -> HeadScores:
    """Score every head on every job (by default the common three).

    Activations need `pattern`; the layers that were captured are scored. Prompts are run through `model` once, some at
    a time, and no pattern is kept: memory does not grow with their number.

    With `track` a score "position tracking" is added, for heads that look at the same place whatever stands there: at
    those queries, the overlap of a prompt's attention with the mean attention of the other prompts of the same layout,
    minus its overlap with uniform attention. 0 for uniform attention and for attention steered by content alone; near
    1 for a head fixed on one place. It is nan for a layout that only one prompt has.
    """
    jobs = COMMON if jobs is None else jobs
    if not jobs and track is None:
        raise ConfigError("name at least one job for the heads to be scored on")
    if isinstance(activations, Activations):
        prompts, parts = activations.prompts, iter([activations])
    elif model is None:
        raise ConfigError("prompts are scored on a model: give model=, or the activations that `capture` returns")
    else:
        prompts, parts = activations, harvest(model, activations, ["pattern"], memory=max(1, memory // 2))
    layers: tuple[int, ...] = (0,)
    values, uniform = [], []
    tracked: list[list[Float[Tensor, "prompt layer head key"]]] = [[] for _ in track or ()]
    for part in parts:
        layers = tuple(part.layers("pattern")) or (0,)
        patterns = [part["pattern", layer].float().cpu().nan_to_num() for layer in layers]
        if jobs:
            scored, even = zip(*(_attention(patterns, part.prompts, job) for job in jobs.values()), strict=True)
            values.append(torch.stack(scored, -1))
            uniform.append(torch.stack(even, -1))
        missing = prompts.tokens.shape[1] - part.prompts.tokens.shape[1]
        for rows, position in zip(tracked, track or (), strict=True):
            queries = part.prompts.columns(position).clamp(min=0)
            every = torch.arange(len(queries))
            rows.append(pad(torch.stack([pattern[every, :, queries] for pattern in patterns], 1), (0, missing)))
        del part, patterns  # before the next are made
    found, chance = ([torch.cat(one)] if jobs else [] for one in (values, uniform))
    if track is not None:
        found.append(_tracking([torch.cat(rows) for rows in tracked], prompts, track)[..., None])
        chance.append(torch.zeros(len(prompts), 1))
    names = (*jobs, "position tracking") if track is not None else tuple(jobs)
    return HeadScores(names, layers, torch.cat(found, -1), torch.cat(chance, -1), prompts.groups)


def _attention(
    patterns: Sequence[Float[Tensor, "prompt head query key"]], prompts: Prompts, job: Job
) -> tuple[Float[Tensor, "prompt layer head"], Float[Tensor, " prompt"]]:
    """Attention on the keys of a job, layer by layer, and what uniform attention gives."""
    marked = job(prompts)
    weight = marked.float()
    count = marked.any(-1).sum(-1).float()
    allowed = torch.arange(1, prompts.tokens.shape[1] + 1).float()
    found = [torch.einsum("phqk,pqk->ph", pattern, weight) / count[:, None] for pattern in patterns]
    return torch.stack(found, 1), (weight.sum(-1) / allowed).sum(-1) / count


def _earlier(prompts: Prompts) -> Bool[Tensor, "prompt query key"]:
    place = torch.arange(prompts.tokens.shape[1])
    return (place[None, :] < place[:, None]) & prompts.mask[:, :, None]


def _tracking(
    rows: Sequence[Float[Tensor, "prompt layer head key"]], prompts: Prompts, track: Sequence[Position]
) -> Float[Tensor, "prompt layer head"]:
    """From each tracked query's attention."""
    layout = prompts.layout
    total = torch.zeros(rows[0].shape[:3])
    count = torch.zeros(len(layout), 1, 1)
    for row, position in zip(rows, track, strict=True):
        column = prompts.columns(position)
        present = column >= 0
        sums = torch.zeros(int(layout.max()) + 1, *row.shape[1:]).index_add_(0, layout[present], row[present])
        members = torch.bincount(layout[present], minlength=len(sums))[layout]
        usable = (present & (members > 1))[:, None, None]
        others = (sums[layout] - row) / (members - 1).clamp(min=1)[:, None, None, None]
        even = (torch.arange(row.shape[-1]) <= column[:, None]).float()
        even = (even / even.sum(1, keepdim=True).clamp(min=1))[:, None, None]
        excess = torch.minimum(row, others).sum(-1) - torch.minimum(row, even).sum(-1)
        total += torch.where(usable, excess, 0.0)
        count += usable
    return total / torch.where(count > 0, count, torch.nan)
