"""What was learned when? From the records of a training to numbers with intervals.

Nothing here asks a model again. Chance is what shuffled labels give. The intervals over depths hold for all of them
together: largest studentized deviation under random signs of whole groups (Westfall & Young 1993; Wu, Ann. Stat. 14
(1986) 1261).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analyses.verdicts import Verdicts
from interp.estimates import (
    FEWEST_GROUPS,
    Estimate,
    dealt_often,
    mean,
    mean_value,
    proportion,
)
from interp.monitoring.records import Recording

WITHIN = 0.02
"""Accuracy has converged where it stays this near to its final value."""
_SHUFFLES = 999


@dataclass(frozen=True, eq=False)
class Course:
    """A judge's verdicts along its training."""

    accuracy: Estimate
    """Over snapshots."""
    auc: Estimate
    f1: Float[np.ndarray, " snapshot"]
    loss: Estimate
    """Held-out: what the true verdict's probability lacks; nats."""
    right: Float[np.ndarray, "prompt snapshot"]
    chance: Float[np.ndarray, " shuffle"]
    """Accuracy of the last snapshot against shuffled labels."""

    @property
    def converged(self) -> int:
        """The first snapshot from which on accuracy stays within two points of the final one."""
        off = np.abs(self.accuracy.value - self.accuracy.value[-1]) > WITHIN + 1e-9
        return int(np.flatnonzero(off).max(initial=-1)) + 1

    @property
    def p(self) -> float:
        """One-sided p of the final accuracy among those with shuffled labels."""
        return float((1 + (self.chance >= self.accuracy.value[-1] - 1e-12).sum()) / (1 + len(self.chance)))


def course(recording: Recording, *, seed: int = 0) -> Course:
    """Accuracy, discrimination and loss of every snapshot."""
    unsafe, groups = torch.from_numpy(recording.unsafe), torch.from_numpy(recording.groups)
    found = [Verdicts(torch.from_numpy(row).float(), unsafe, ("",) * len(unsafe), groups) for row in recording.log_odds]
    right = np.stack([one.right.numpy().astype(float) for one in found], 1)
    right[np.isnan(recording.log_odds.T)] = np.nan
    sign = np.where(recording.unsafe, 1.0, -1.0)[:, None]
    return Course(
        _stacked([_share(one, groups) for one in right.T]),
        _stacked([one.auc() for one in found]),
        np.where(np.isnan(right).any(0), np.nan, [one.f1() for one in found]),
        mean(_softplus(-sign * recording.log_odds.T), groups),
        right,
        _chance(recording, seed),
    )


def _softplus(x: Float[np.ndarray, "prompt snapshot"]) -> Float[np.ndarray, "prompt snapshot"]:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _share(right: Float[np.ndarray, " prompt"], groups: Int[Tensor, " prompt"]) -> Estimate:
    """Share of right verdicts; a tie is half right."""
    return mean(right, groups) if (right == 0.5).any() else proportion(right, groups)


def unchanged(recording: Recording) -> bool:
    """Whether the first and the last snapshot are of the same judge, as far as the records can tell."""
    parts = (recording.log_odds, recording.attention, recording.mlp, recording.separation)
    return all(np.allclose(part[0], part[-1], rtol=1e-3, atol=1e-6, equal_nan=True) for part in parts)


def told(recording: Recording) -> Float[np.ndarray, "prompt snapshot depth"]:
    """1 where the stream at a depth lies on the text's own side of safe and unsafe; nan where nothing tells them."""
    unsafe = recording.unsafe[None, :, None]
    own = ((recording.separation > 0) == unsafe).astype(float)
    return np.where(np.isnan(recording.separation), np.nan, own).swapaxes(0, 1)


def depth_names(recording: Recording) -> tuple[str, ...]:
    """The stream before the first layer and after each."""
    return ("embed", *(f"layer {layer}" for layer in range(recording.layers)))


def simultaneous(
    values: Float[np.ndarray, "prompt cell"],
    groups: Int[np.ndarray, " prompt"],
    *,
    seed: int = 0,
    resamples: int = 4999,
) -> Estimate:
    """Means over prompts with intervals that hold for all cells together. nan below `FEWEST_GROUPS` groups."""
    index = np.unique(groups, return_inverse=True)[1]
    present = ~np.isnan(values)
    n = present.sum(0)
    centre = mean_value(values)
    off = np.zeros((int(index.max()) + 1, values.shape[1]))
    np.add.at(off, index, np.where(present, values - centre, 0.0))
    counts = np.zeros_like(off)
    np.add.at(counts, index, present.astype(float))
    many = (counts > 0).sum(0)
    squares, free = (off**2).sum(0), np.maximum(many - 1, 1)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(resamples, len(off)))
    # Each draw is divided by its own spread, as the data are: few groups make for wide intervals, as Student's t does.
    sums = signs @ off
    spread = np.sqrt(np.maximum(squares - sums**2 / np.maximum(many, 1), 0.0) * many / free)
    drawn = np.abs(np.divide(sums, spread, out=np.zeros_like(sums), where=spread > 0)).max(1, initial=0)
    size = np.sqrt(squares * many / free)
    reach = np.divide(np.quantile(drawn, 0.95) * size, n, out=np.full_like(size, np.nan), where=n > 0)
    reach = np.where((many < FEWEST_GROUPS) | (size == 0), np.nan, reach)
    return Estimate(centre, centre - reach, centre + reach, np.full_like(centre, np.nan), many.astype(int))


def balanced(
    right: Float[np.ndarray, "prompt snapshot"],
    unsafe: Bool[np.ndarray, " prompt"],
    chosen: Bool[np.ndarray, " prompt"],
) -> Float[np.ndarray, " snapshot"]:
    """Mean of the accuracies on both classes; plain accuracy where only one is there."""
    sides = [right[chosen & (unsafe == side)] for side in (True, False)]
    return np.mean([side.mean(0) for side in sides if len(side)], 0) if chosen.any() else right[0] * np.nan


def half_way(values: Float[np.ndarray, "*draw snapshot"], start: float = 0.5) -> Int[np.ndarray, "*draw"]:
    """The snapshot from which on values stay above the middle of `start` and their last; -1 where that is < 0.1 up."""
    goal = (start + values[..., -1:]) / 2
    below = ~(values >= goal - 1e-9)
    count = values.shape[-1]
    last = np.where(below.any(-1), count - 1 - np.argmax(below[..., ::-1], -1), -1)
    return np.where(values[..., -1] - start >= 0.1, last + 1, -1)


@dataclass(frozen=True, eq=False)
class Part:
    """When texts of one kind were learned."""

    column: str
    value: str
    texts: int
    truth: str
    """safe, unsafe or both."""
    told: Float[np.ndarray, " snapshot"]
    """AUC within these texts; against all texts of the other class where they are of one class. .5 is chance,
    whichever way the judge leans."""
    accuracy: float
    """At the last snapshot."""
    half: int | None
    """Step from which on `told` stays above the middle of .5 and its last value; None where that is below .6."""
    low: int | None
    """Ends of the bootstrap's interval."""
    high: int | None


def parts(recording: Recording, found: Course, *, seed: int = 0) -> list[Part]:
    """When the texts of each value of each label were learned, the earliest first; all texts together in front."""
    unsafe, groups = recording.unsafe, recording.groups
    columns: dict[str, tuple[str, ...]] = {"": ("all texts",) * len(unsafe), **recording.probe.labels}
    names, index = np.unique(groups, return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=200)
    weights = np.concatenate([np.ones((1, len(unsafe))), drawn[:, index]])
    made = []
    for column, values in columns.items():
        rows = []
        for value in dict.fromkeys(values):
            chosen = np.array(values) == value
            truth = {(True,): "unsafe", (False,): "safe"}.get(tuple(np.unique(unsafe[chosen])), "both")
            high = unsafe & chosen if truth != "safe" else unsafe
            low = ~unsafe & chosen if truth != "unsafe" else ~unsafe
            curves = _told(recording.log_odds, high, low, weights)
            at, step, ends = int(half_way(curves[0])), None, (None, None)
            if 0 <= at < len(recording):
                step, ends = int(recording.steps[at]), _ends(recording, curves[1:])
            right = float(mean_value(found.right[chosen, -1]))
            rows.append(Part(column, value, int(chosen.sum()), truth, curves[0], right, step, *ends))
        made += sorted(rows, key=lambda row: (row.half is None, row.half or 0, row.value))
    return made


def _told(
    log_odds: Float[np.ndarray, "snapshot prompt"],
    unsafe: Bool[np.ndarray, " prompt"],
    safe: Bool[np.ndarray, " prompt"],
    weights: Float[np.ndarray, "draw prompt"],
) -> Float[np.ndarray, "draw snapshot"]:
    """AUC with each prompt counted as often as its weight says."""
    high, low = weights[:, unsafe], weights[:, safe]
    total = high.sum(1) * low.sum(1)
    found = np.full((len(weights), len(log_odds)), np.nan)
    for i, row in enumerate(log_odds):
        gap = np.sign(row[unsafe][:, None] - row[safe])
        np.divide(((high @ gap) * low).sum(1), total, out=found[:, i], where=total > 0)
    return (found + 1) / 2


def _ends(recording: Recording, curves: Float[np.ndarray, "draw snapshot"]) -> tuple[int | None, int | None]:
    at = half_way(curves[~np.isnan(curves).any(1)])
    steps = np.append(recording.steps, recording.steps[-1])[at[at >= 0]]
    if len(steps) < 0.9 * len(curves):
        return None, None
    low, high = np.quantile(steps, [0.025, 0.975], method="nearest")
    return int(low), int(high)


def _chance(recording: Recording, seed: int) -> Float[np.ndarray, " shuffle"]:
    """Accuracy of the last snapshot against labels dealt anew, within groups where these hold both classes."""
    said = recording.log_odds[-1] > 0
    unsafe, groups = recording.unsafe, recording.groups
    rng = np.random.default_rng(seed)
    shuffled = dealt_often(unsafe.astype(int), groups, rng, _SHUFFLES).astype(bool)
    return (said == shuffled).mean(1)


def _stacked(parts: Sequence[Estimate]) -> Estimate:
    value, low, high, p, n = (np.stack([getattr(one, name) for one in parts]) for name in _FIELDS)
    return Estimate(value, low, high, p, n)


_FIELDS = ("value", "low", "high", "p", "n")
