"""Choosing the best place or head and telling how good it is, without being fooled by the choice.

The best of many noisy numbers looks better than it is. So the prompts are split into two halves that share no group:
one chooses, the other estimates. What is done to a trained model is done to every untrained one too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from interp.analyses.ablation import Ablation, StepAblation
from interp.analyses.heads import HeadScores
from interp.analyses.logit_lens import LogitLens
from interp.analyses.patching import Patching
from interp.analyses.probing import Probing
from interp.errors import ConfigError, PromptError
from interp.estimates import (
    FEWEST_GROUPS,
    Estimate,
    against_population,
    constant,
    difference,
    halves,
    mean,
    mean_value,
    population,
    proportion,
    ratio_value,
    share_change,
)


@dataclass(frozen=True, eq=False)
class Chosen:
    """A place chosen on one half and estimated on the other."""

    layer: int
    column: str
    effect: Estimate
    control: Estimate
    difference: Estimate
    searched: int
    """How many places there were to choose from."""


def best_patch(result: Patching, *, layer: int | None = None, seed: int = 0) -> Chosen:
    """The cell (of a layer, or of all) whose patch moves most beyond its control.

    Effect, control and difference are over the same pairs: those that have a control, where there is one at all.
    """
    search, confirm = halves(result.groups, seed=seed)
    rows = [i for i, number in enumerate(result.layers) if layer in (None, number)]
    if not rows:
        raise ConfigError(f"layer {layer} was not patched; there are layers {list(result.layers)}")
    found, enough = _searched(result, search, confirm)
    found, enough = found[rows], enough[rows]
    if np.isnan(found).all():
        raise PromptError("no cell of the patching grid has a value; give more pairs of the same layout")
    # A cell that few pairs have wins by noise and decides nothing: it counts only where no other does.
    found = np.where(enough, found, np.nan) if enough.any() else found
    row, column = np.unravel_index(np.nanargmax(found), found.shape)
    cell = (rows[row], int(column))
    controlled = ~result.control[:, cell[0], cell[1]].isnan().numpy()
    kept = confirm & controlled if (confirm & controlled).any() else confirm
    return Chosen(
        layer=result.layers[cell[0]],
        column=result.columns[cell[1]],
        effect=result.share(kept, cell=cell),
        control=result.share(kept, cell=cell, control=True),
        difference=result.excess(kept, cell=cell),
        searched=int((~np.isnan(found)).sum()),
    )


def best_head(scores: HeadScores, job: str, *, seed: int = 0) -> tuple[int, int, Estimate]:
    """Layer, head and score of the head that does a job best: chosen on one half, estimated on the other."""
    row, head, left, groups = _best_head(scores, job, seed)
    return scores.layers[row], head, mean(left, groups)


def _best_head(
    scores: HeadScores, job: str, seed: int
) -> tuple[int, int, Float[np.ndarray, " prompt"], Int[np.ndarray, " prompt"]]:
    """Row, head and its scores and groups on the other half."""
    if job not in scores.scores:
        raise ConfigError(f"the heads were not scored on {job!r}; they were on: {', '.join(scores.scores)}")
    values, groups = scores.values[..., scores.scores.index(job)].numpy(), scores.groups.numpy()
    search, confirm = halves(groups, seed=seed)
    found = mean_value(values[search])
    if np.isnan(found).all():
        raise PromptError(f"no prompt of the searching half has a query with the job {job!r}")
    row, head = np.unravel_index(np.nanargmax(found), found.shape)
    return int(row), int(head), values[confirm][:, row, head], groups[confirm]


def _best_heads(untrained: Sequence[HeadScores], job: str, seed: int) -> list[float]:
    """What the best head of each untrained model has, chosen and estimated as for the trained one."""
    return [float(mean_value(_best_head(other, job, seed)[2])) for other in untrained]


def learned_head(trained: HeadScores, untrained: Sequence[HeadScores], job: str, *, seed: int = 0) -> Chosen:
    """The head that does a job best, against the best heads of untrained models chosen and estimated alike."""
    layer, head, effect = best_head(trained, job, seed=seed)
    others = _best_heads(untrained, job, seed)
    return Chosen(
        layer=layer,
        column=str(head),
        effect=effect,
        control=population(others, bounds=(0, 1)),
        difference=against_population(effect, others, reach=1.0),
        searched=trained.values.shape[1] * trained.values.shape[2],
    )


def learned_heads(
    trained: HeadScores, untrained: Sequence[HeadScores], job: str, *, minimum: float = 0.1, seed: int = 0
) -> list[dict[str, Any]]:
    """Every head's score at a job, beside the best heads of untrained models; the highest first, as plain values.

    Found is a head whose score lies above what a further untrained model's best head would have, by `minimum` at least:
    the best of all untrained heads stands against each, so having looked at all of them is allowed for.
    """
    index = trained.scores.index(job)
    _, confirm = halves(trained.groups, seed=seed)
    kept = torch.from_numpy(confirm)
    found = mean(trained.values[kept][..., index], trained.groups[kept])
    others = _best_heads(untrained, job, seed)
    rows = []
    for row, layer in enumerate(trained.layers):
        for head in range(found.value.shape[1]):
            learned = against_population(found[row, head], others, reach=1.0)
            rows.append(
                {
                    "head": f"L{layer}H{head}",
                    "found": bool(learned.low > minimum),
                    "effect": found[row, head].as_dict(),
                    "control": population(others, bounds=(0, 1)).as_dict(),
                    "difference": learned.as_dict(),
                }
            )
    return sorted(rows, key=lambda row: -row["effect"]["value"])


def readable_from(result: LogitLens, positions: Sequence[str] | None = None, *, seed: int = 0) -> Chosen:
    """The depth at which most answer tokens become readable, against the depth before.

    Every answer token (of `positions`, by default all) counts by itself; those of a group are not independent.
    """
    names = result.positions if positions is None else tuple(positions)
    right = result.right[:, :, [result.positions.index(name) for name in names]].numpy()
    groups = result.groups.numpy()
    search, confirm = halves(groups, seed=seed)
    steps = np.diff(mean_value(np.moveaxis(right[search], 1, 2).reshape(-1, right.shape[1])))
    if np.isnan(steps).all():
        raise PromptError("no prompt of the searching half has an answer; give prompts with answers")
    depth = int(np.nanargmax(steps)) + 1
    after, before = (right[confirm][:, d].reshape(-1) for d in (depth, depth - 1))
    repeated = np.repeat(groups[confirm], len(names))
    return Chosen(
        layer=depth - 1,
        column=result.depths[depth],
        effect=proportion(after, repeated),
        control=proportion(before, repeated),
        difference=difference(after, before, repeated),
        searched=len(steps),
    )


def costliest(result: Ablation, metric: str | None = None, *, seed: int = 0) -> Chosen:
    """The part whose ablation costs most of a metric, against the mean of the other parts on the same prompts."""
    drop, groups = result.drop(metric).numpy(), result.groups.numpy()
    search, confirm = halves(groups, seed=seed)
    found = mean_value(drop[search])
    if np.isnan(found).all():
        raise PromptError("no prompt of the searching half has a value under ablation; give more prompts of one layout")
    if found.size < 2:
        raise ConfigError("the costliest part needs another one beside it; ablate more than one")
    row, column = np.unravel_index(np.nanargmax(found), found.shape)
    own = drop[confirm][:, row, column]
    rest = np.ones(found.shape, dtype=bool)
    rest[row, column] = False
    others = _mean_over(drop[confirm][:, rest])
    others = np.where(np.isnan(own), np.nan, others)
    return Chosen(
        layer=result.layers[row],
        column=result.columns[column],
        effect=mean(own, groups[confirm]),
        control=mean(others, groups[confirm]),
        difference=difference(own, others, groups[confirm]),
        searched=int((~np.isnan(found)).sum()),
    )


def own_and_others(result: StepAblation, own: Mapping[str, str], *, seed: int = 0) -> tuple[Chosen, Chosen]:
    """What ablating each position costs its own answer token (a metric) and the others, and what the worst other.

    Others are those that the position can change: what is read before it stands is left out. The first averages over
    the positions of `own`: a prompt's own tokens against its others. The second is the other token that suffers most,
    chosen on one half of the prompts and estimated on the other; its control is no drop.
    """
    drop, groups = result.drop().numpy(), result.groups.numpy()
    mine = np.zeros(drop.shape[1:], dtype=bool)
    for position, metric in own.items():
        mine[result.positions.index(position), result.metrics.index(metric)] = True
    theirs = result.reached.numpy() & ~mine
    if not mine.any() or not theirs.any():
        raise ConfigError("own names, for some positions, which metric is theirs, and leaves others")
    flat, kept = drop.reshape(len(drop), -1), theirs.reshape(-1)
    first, second = (_mean_over(flat[:, which]) for which in (mine.reshape(-1), kept))
    alone = np.isnan(first) | np.isnan(second)  # a prompt without others has no control
    first, second = np.where(alone, np.nan, first), np.where(alone, np.nan, second)
    together = Chosen(
        layer=-1, column="", effect=mean(first, groups), control=mean(second, groups),
        difference=difference(first, second, groups), searched=1,
    )  # fmt: skip
    search, confirm = halves(groups, seed=seed)
    found = np.where(kept, mean_value(flat[search]), np.nan)
    if np.isnan(found).all():
        raise PromptError("no prompt of the searching half has another answer token; give more prompts of one layout")
    worst = int(np.nanargmax(found))
    position, metric = np.unravel_index(worst, mine.shape)
    worse = flat[confirm][:, worst]
    shares = bool((np.isnan(worse) | np.isin(worse, (-1, 0, 1))).all())
    left = (share_change if shares else mean)(worse, groups[confirm])
    return together, Chosen(
        layer=-1, column=f"{result.positions[position]}: {result.metrics[metric]}", effect=left,
        control=constant(0.0), difference=left, searched=int((~np.isnan(found)).sum()),
    )  # fmt: skip


def _mean_over(table: Float[np.ndarray, "prompt cell"]) -> Float[np.ndarray, " prompt"]:
    """Mean over the cells that a prompt has; nan where it has none."""
    count = (~np.isnan(table)).sum(1)
    return np.where(count > 0, np.nansum(table, 1) / np.maximum(count, 1), np.nan)


def best_probe(result: Probing, *, seed: int = 0) -> Chosen:
    """The depth and position at which a label is read best beyond the control task.

    Its control is the control task or the commonest label, whichever is right more often on the searching half.
    """
    right, control, groups = result.right.numpy(), result.control.numpy(), result.groups.numpy()
    search, confirm = halves(groups, seed=seed)
    found = mean_value((right - control)[search])
    if np.isnan(found).all():
        raise PromptError(f"no prompt of the searching half has the label {result.label!r} and one of the positions")
    depth, place = np.unravel_index(np.nanargmax(found), found.shape)
    tables = [table[:, depth, place] for table in (control, result.majority.numpy())]
    stronger = tables[int(np.nanargmax([np.nanmean(table[search]) for table in tables]))]
    own, other = right[confirm][:, depth, place], stronger[confirm]
    return Chosen(
        layer=int(result.sites[depth].partition(".")[2]),
        column=f"{result.positions[place]}, {result.depths[depth]}",
        effect=proportion(own, groups[confirm]),
        control=proportion(other, groups[confirm]),
        difference=difference(own, other, groups[confirm]),
        searched=int((~np.isnan(found)).sum()),
    )


def _searched(
    result: Patching, search: Bool[np.ndarray, " pair"], confirm: Bool[np.ndarray, " pair"]
) -> tuple[Float[np.ndarray, "layer column"], Bool[np.ndarray, "layer column"]]:
    """What each cell moves beyond its control on the searching half, and whether both halves have enough pairs.

    Without a control the share moved stands in.
    """
    whole = (result.clean - result.corrupted)[:, None, None].expand_as(result.moved)
    moved = result.moved - result.control_moved
    moved = result.moved if bool(moved.isnan().all()) else moved
    groups = result.groups.numpy()
    value, there = ratio_value(moved[search], whole[search], groups[search])
    also = ratio_value(moved[confirm], whole[confirm], groups[confirm])[1]
    return value, (there >= FEWEST_GROUPS) & (also >= FEWEST_GROUPS)
