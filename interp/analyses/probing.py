"""In what form is it there? Linear probes over depths and positions, with the controls that keep them honest.

Sources: Alain & Bengio (arXiv 1610.01644); Hewitt & Liang, "Designing and Interpreting Probes with Control Tasks"
(arXiv 1909.03368); Belinkov (arXiv 2102.12452). A probe that reads a label says that it is linearly readable there, not
that the model uses it: take the probe's direction and test it with an edit (`interp.direction_test`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits
from torch import Tensor

from interp.errors import ConfigError, PromptError
from interp.estimates import Estimate, dealt, difference, proportion
from interp.logistic import MEMORY, fitted, held_out
from interp.models.directions import Direction
from interp.prompts import Position, Prompts
from interp.results import grid_frame
from interp.sites import Site
from interp.tensors import Activations, gather_positions


@dataclass(frozen=True, eq=False)
class Probing:
    """Held-out answers of probes at every depth and position, and of their controls."""

    label: str
    classes: tuple[str, ...]
    depths: tuple[str, ...]
    sites: tuple[str, ...]
    """Where an edit changes each depth, as resid_post.0."""
    positions: tuple[str, ...]
    right: Float[Tensor, "prompt depth position"]
    """1 where a probe that never saw the prompt's group names its label; nan where prompt has no label or position."""
    shuffled: Float[Tensor, "prompt depth position"]
    """The same for labels dealt out anew among the groups."""
    control: Float[Tensor, "prompt depth position"]
    """The same for a control task: for each value of `key` a label drawn at random with the real ones' frequencies."""
    majority: Float[Tensor, "prompt depth position"]
    """1 where the commonest label of the other folds is right."""
    key: str
    """What the control task's labels hang on."""
    vectors: Float[Tensor, "depth position class d_model"]
    """Weights of the probes fitted to all prompts, in the stream's own units."""
    groups: Int[Tensor, " prompt"]

    def accuracy(self) -> Estimate:
        """Share of prompts right, [depth, position]; the groups are the trials."""
        return proportion(self.right, self.groups)

    def selectivity(self) -> Estimate:
        """Accuracy less that of the control task, [depth, position] (Hewitt & Liang)."""
        return difference(self.right, self.control, self.groups)

    def beyond_majority(self) -> Estimate:
        """Accuracy less that of the commonest label, [depth, position]."""
        return difference(self.right, self.majority, self.groups)

    def direction(self, depth: int | str, position: int | str, label: str) -> Direction:
        """What a probe reads one label along, as a direction of the stream.

        `depth` and `position` by name (of `depths`, `positions`) or number; labels of yes and no are "1" and "0".
        """
        if label not in self.classes:
            raise ConfigError(f"the probe knows no label {label!r}; it knows: {', '.join(self.classes)}")
        row, column = _place(depth, self.depths, "depth"), _place(position, self.positions, "position")
        name, _, layer = self.sites[row].partition(".")
        source = f"probe for {self.label} = {label} at {self.positions[column]}, {self.depths[row]}"
        return Direction(Site(name, int(layer)), self.vectors[row, column, self.classes.index(label)], source)

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt, depth and position."""
        return grid_frame(
            {"depth": self.depths, "position": self.positions}, right=self.right, shuffled=self.shuffled,
            control=self.control, majority=self.majority,
        )  # fmt: skip


def _place(wanted: int | str, names: Sequence[str], what: str) -> int:
    if isinstance(wanted, str) and wanted in names:
        return list(names).index(wanted)
    if isinstance(wanted, int) and -len(names) <= wanted < len(names):
        return wanted % len(names)
    raise ConfigError(f"the probe has no {what} {wanted!r}; it has: {', '.join(names)}")


def probing(
    activations: Activations,
    label: str,
    *,
    at: Sequence[Position],
    key: Sequence[str],
    folds: int = 5,
    strength: float = 0.1,
    seed: int = 0,
    memory: int = MEMORY,
) -> Probing:
    """Fit logistic probes for a label column of the prompts at every depth and position.

    Folds are grouped by the prompts' groups, so that a probe is never asked about a group it has seen. `key` names the
    label columns whose values together get random labels in the control task: something that comes again in other
    groups (the digits of a column, not the operands), or the control could not be learned at all. `strength` is the
    inverse of the ridge penalty, on standardised activations. Needs `resid_pre` and `resid_post`; where `resid_mid` is
    there, the stream is also read between attention and MLP. Depths, folds and controls of a position are fitted
    side by side, as many as `memory` bytes hold.
    """
    prompts = activations.prompts
    if not key or isinstance(key, str):
        raise ConfigError("a control task needs a key: a list of label columns that come again in other groups")
    codes, classes = prompts.coded(label)
    keys = np.stack([prompts.coded(name)[0] for name in key], 1)
    groups = prompts.groups.numpy()
    generator = np.random.default_rng(seed)
    if len(classes) < 2:
        raise PromptError(f"the label {label!r} has {len(classes)} value(s) in these prompts; a probe needs two")
    tasks = (codes, dealt(codes, groups, generator), _keyed(codes, keys, generator))
    names, sites, tensors = zip(*activations.stream(), strict=True)
    with threadpool_limits(1):  # fits are small: threads only get in each other's way
        found, vectors = _answers(prompts, tensors, tasks, at, len(classes), folds, strength, seed, memory)
    right, shuffled, control, majority = torch.from_numpy(found).float()
    return Probing(
        label, classes, names, tuple(map(str, sites)), tuple(map(str, at)), right, shuffled, control, majority,
        ", ".join(key), vectors, prompts.groups,
    )  # fmt: skip


def _answers(
    prompts: Prompts,
    tensors: Sequence[Float[Tensor, "prompt pos d_model"]],
    tasks: Sequence[NDArray[np.int64]],
    at: Sequence[Position],
    n_classes: int,
    folds: int,
    strength: float,
    seed: int,
    memory: int,
) -> tuple[NDArray[np.float64], Float[Tensor, "depth position class d_model"]]:
    """Held-out answers [task or majority, prompt, depth, position], and the weights of probes fitted to all prompts.

    The first of the tasks are the real labels.
    """
    codes, groups = tasks[0], prompts.groups.numpy()
    found = np.full((len(tasks) + 1, len(prompts), len(tensors), len(at)), np.nan)
    vectors = torch.full((len(tensors), len(at), n_classes, tensors[0].shape[-1]), torch.nan)
    for place, position in enumerate(at):
        there = (prompts.columns(position).numpy() >= 0) & (codes >= 0)
        if len(np.unique(groups[there])) < folds or len(np.unique(codes[there])) < 2:
            continue
        rows = np.flatnonzero(there)
        split = list(GroupKFold(folds, shuffle=True, random_state=seed).split(rows, groups=groups[rows]))
        fold = np.zeros(len(rows), dtype=np.int64)
        for number, (train, test) in enumerate(split):
            common = np.bincount(codes[rows[train]]).argmax()
            found[-1, rows[test], :, place] = (codes[rows[test]] == common)[:, None]
            fold[test] = number
        x = torch.stack([gather_positions(tensor, prompts, [position])[rows, 0].float().cpu() for tensor in tensors])
        labels = torch.from_numpy(np.stack([task[rows] for task in tasks]))
        named = held_out(x, labels, torch.from_numpy(fold), strength=strength, memory=memory)
        found[:-1, ..., place][:, rows] = (named == labels[:, None]).mT
        vectors[:, place] = fitted(x, labels[0], n_classes, strength=strength, memory=memory)
    return found, vectors


def _keyed(codes: NDArray[np.int64], keys: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """One random label for each value of the key, drawn with the real labels' frequencies."""
    values, which = np.unique(keys, axis=0, return_inverse=True)
    drawn = rng.choice(codes[codes >= 0], len(values))
    return np.where(codes >= 0, drawn[which.reshape(-1)], -1)
