"""Which heads do something? All of them tested, found on one half of the prompts and confirmed on the other.

Of many heads some look good by chance. So p values of the searching half are corrected together (Benjamini & Hochberg,
J. R. Stat. Soc. B 57 (1995) 289), and what is found there must show again on the other half, with an effect that
matters.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from interp.analyses.ablation import Ablation
from interp.analyses.patching import Patching
from interp.errors import ConfigError, PromptError
from interp.estimates import FEWEST_GROUPS, Estimate, halves, matched, mean_value, ratio, ratio_value, sign_flip
from interp.prompts import Prompts
from interp.workflows.selection import Chosen

ENDS = ("value", "low", "high")


@dataclass(frozen=True, eq=False)
class Discovery:
    """The effect of every head on every task, beside its control, on both halves of the prompts."""

    unit: str
    control_name: str
    layers: tuple[int, ...]
    heads: tuple[str, ...]
    tasks: tuple[str, ...]
    effect: Float[Tensor, "layer head task"]
    """Effect less control on the searching half."""
    q: Float[Tensor, "layer head task"]
    """Sign-flip p on the searching half after Benjamini and Hochberg over all heads and tasks; nan where untested."""
    own: Float[Tensor, "layer head task end"]
    """Effect on the other half: value, low and high end."""
    control: Float[Tensor, "layer head task end"]
    difference: Float[Tensor, "layer head task end"]
    """Effect less control on the other half: free of the choice."""
    p: Float[Tensor, "layer head task"]
    """Sign-flip p on the other half."""
    n: Int[Tensor, " task"]
    """Groups on the other half."""
    minimum: float
    """The smallest difference that matters."""
    level: float

    def candidates(self) -> Bool[Tensor, "layer head task"]:
        """Found on the searching half: q at most `level`, difference at least `minimum`."""
        return (self.q <= self.level) & (self.effect >= self.minimum)

    def found(self) -> Bool[Tensor, "layer head task"]:
        """Found on one half and confirmed on the other.

        Confirmed: the difference is at least `minimum` again, and its p at most `level` after Benjamini and Hochberg
        over those found.
        """
        first = self.candidates()
        confirmed = torch.zeros_like(first)
        if bool(first.any()):
            again = stats.false_discovery_control(self.p[first].double().nan_to_num(1.0).numpy())
            confirmed[first] = torch.from_numpy(again <= self.level)
        return confirmed & (self.difference[..., 0] >= self.minimum)

    def best(self, task: str) -> Chosen:
        """The head with the largest difference on the searching half, as estimated on the other."""
        if task not in self.tasks:
            raise ConfigError(f"there is no task {task!r}; there are: {', '.join(self.tasks)}")
        index = self.tasks.index(task)
        searched = self.effect[..., index].numpy()
        if np.isnan(searched).all():
            raise PromptError(f"no head has a value for {task!r}; give more prompts")
        row, column = np.unravel_index(np.nanargmax(searched), searched.shape)
        return self.at(int(row), int(column), task)

    def at(self, row: int, column: int, task: str) -> Chosen:
        """One head's numbers on one task, as estimated on the confirming half."""
        cell = (row, column, self.tasks.index(task))
        return Chosen(
            layer=self.layers[row],
            column=self.heads[column],
            effect=self._estimate(self.own, cell),
            control=self._estimate(self.control, cell),
            difference=self._estimate(self.difference, cell),
            searched=int((~self.effect[..., cell[2]].isnan()).sum()),
        )

    def _estimate(self, of: Tensor, cell: tuple[int, int, int]) -> Estimate:
        value, low, high = of[cell].tolist()
        return Estimate.single(value, low, high, n=int(self.n[cell[2]]))

    def rows(self, task: str) -> list[dict[str, Any]]:
        """Every head as plain values, the largest difference first."""
        index, found = self.tasks.index(task), self.found()
        listed = []
        for row, layer in enumerate(self.layers):
            for column, head in enumerate(self.heads):
                cell = (row, column, index)
                named = (("effect", self.own), ("control", self.control), ("difference", self.difference))
                listed.append(
                    {
                        "head": f"L{layer}H{head}",
                        "found": bool(found[cell]),
                        "q": _plain(self.q[cell]),
                        "p_confirmed": _plain(self.p[cell]),
                        **{name: self._estimate(table, cell).as_dict() for name, table in named},
                    }
                )
        return sorted(listed, key=lambda row: -(row["difference"]["value"] or 0))

    def to_frame(self) -> pd.DataFrame:
        """One row for each head and task."""
        axes = {"layer": self.layers, "head": self.heads, "task": self.tasks}
        index = pd.MultiIndex.from_product(list(axes.values()), names=list(axes))
        flat = {
            "search_difference": self.effect, "q": self.q, "p": self.p, "found": self.found(),
            "effect": self.own[..., 0], "control": self.control[..., 0], "difference": self.difference[..., 0],
            "low": self.difference[..., 1], "high": self.difference[..., 2],
        }  # fmt: skip
        return pd.DataFrame({k: v.reshape(-1).numpy() for k, v in flat.items()}, index=index).reset_index()


@dataclass(frozen=True, eq=False)
class Trial:
    """The effect of every head on some prompts, and its control on the same (or matched) ones."""

    own: Float[Tensor, "row layer head"]
    control: Float[Tensor, "row layer head"]
    groups: Int[Tensor, " row"]
    whole: Float[Tensor, " row"] | None = None
    """What the effects are shares of: they are then ratios of means."""


def discover(
    trials: Mapping[str, Trial],
    *,
    layers: Sequence[int],
    heads: Sequence[str],
    unit: str,
    control_name: str,
    minimum: float = 0.1,
    level: float = 0.05,
    seed: int = 0,
) -> Discovery:
    """Test every head on every task. A task with fewer than eight groups in either half is left untested (nan)."""
    if not trials:
        raise ConfigError("name at least one task to look for")
    searched, confirmed = [], []
    for trial in trials.values():
        both = halves(trial.groups, seed=seed) if len(trial.groups.unique()) >= 2 * FEWEST_GROUPS else None
        searched.append(_searched(trial, None if both is None else both[0], seed))
        confirmed.append(_confirmed(trial, None if both is None else both[1], seed))
    effect, p = (np.stack(parts, -1) for parts in zip(*searched, strict=True))
    own, control, difference, again, n = zip(*confirmed, strict=True)
    q = np.full_like(p, np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])

    def grid(parts: Sequence[NDArray[np.float64]]) -> Tensor:
        return torch.from_numpy(np.stack(parts, 2)).float()

    return Discovery(
        unit=unit,
        control_name=control_name,
        layers=tuple(layers),
        heads=tuple(heads),
        tasks=tuple(trials),
        effect=torch.from_numpy(effect).float(),
        q=torch.from_numpy(q).float(),
        own=grid(own),
        control=grid(control),
        difference=grid(difference),
        p=grid(again),
        n=torch.tensor(n),
        minimum=minimum,
        level=level,
    )


def _searched(
    trial: Trial, half: NDArray[np.bool_] | None, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    shape = tuple(trial.own.shape[1:])
    if half is None:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    rows = torch.from_numpy(half)
    values, groups = (trial.own - trial.control)[rows], trial.groups[rows]
    found = mean_value(values) if trial.whole is None else ratio_value(values, _spread(trial.whole[rows], values))[0]
    return found, sign_flip(values, groups, seed=seed)


def _confirmed(
    trial: Trial, half: NDArray[np.bool_] | None, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], int]:
    shape = tuple(trial.own.shape[1:])
    if half is None:
        nothing = np.full((*shape, len(ENDS)), np.nan)
        return nothing, nothing, nothing, np.full(shape, np.nan), 0
    rows = torch.from_numpy(half)
    groups = trial.groups[rows]
    kinds = (trial.own[rows], trial.control[rows], (trial.own - trial.control)[rows])
    if trial.whole is None:  # means, without the tests that `mean` makes
        wholes = [torch.ones_like(x).masked_fill(x.isnan(), torch.nan) for x in kinds]
    else:
        wholes = [_spread(trial.whole[rows], x) for x in kinds]
    parts = [ratio(x, whole, groups, seed=seed) for x, whole in zip(kinds, wholes, strict=True)]
    tables = [np.stack([getattr(part, end) for end in ENDS], -1) for part in parts]
    return tables[0], tables[1], tables[2], sign_flip(kinds[2], groups, seed=seed), int(parts[2].n.max())


def _spread(whole: Float[Tensor, " row"], values: Float[Tensor, "row layer head"]) -> Float[Tensor, "row layer head"]:
    return whole[:, None, None].expand_as(values)


def _plain(value: Tensor) -> float | None:
    return None if bool(value.isnan()) else float(value)


def patched_heads(results: Mapping[str, Patching], *, minimum: float = 0.1, seed: int = 0) -> Discovery:
    """Heads whose patch moves the metric beyond its control, for each kind of pair (`carry`, `operator`).

    In shares of the mean clean-corrupted difference (ratios of means), over the pairs that have a control. `found()`
    marks the heads, [layer, head, kind]; `best(kind)` and `rows(kind)` give their numbers.
    """
    if not results:
        raise ConfigError("give the patching of at least one kind of pair, by name")
    trials = {}
    for name, result in results.items():
        if result.axis != "head":
            raise ConfigError(f"{name} patches {result.site}, which has no heads; give results of site z")
        both = ~(result.moved.isnan() | result.control_moved.isnan())
        if not bool(both.any()):
            raise PromptError(f"no pair of {name} has a control; give more pairs of one layout")
        own, control = (x.masked_fill(~both, torch.nan) for x in (result.moved, result.control_moved))
        trials[name] = Trial(own, control, result.groups, result.clean - result.corrupted)
    first = next(iter(results.values()))
    return discover(
        trials, layers=first.layers, heads=first.columns, unit="share of the mean clean-corrupted logit difference",
        control_name="patching from another pair that differs in it", minimum=minimum, seed=seed,
    )  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A sub-task that some prompts ask for and matched ones do not."""

    metric: str
    """What breaking it is measured by: a metric of the ablation."""
    label: str
    """The label column that is true where the sub-task is asked for."""
    matched: tuple[str, ...] = ()
    """Label columns that prompts and their matched others share."""


def specialisation(
    result: Ablation, prompts: Prompts, tasks: Mapping[str, Task], *, minimum: float = 0.1, seed: int = 0
) -> Discovery:
    """Which heads' ablation breaks a sub-task more than it breaks matched others?

    Each prompt that asks for the sub-task is paired with one that does not and that agrees in the labels `matched`. A
    head that breaks both alike is needed, but not for this. It matters what the ablation wrote: a mean brings half a
    carry to every digit, so that digits without a carry may break too; see what zero and resample ablation say.
    """
    if len(prompts) != len(result.base):
        raise PromptError(f"the ablation is of {len(result.base)} prompts, not of these {len(prompts)}")
    groups = prompts.groups.numpy()
    trials = {}
    for name, task in tasks.items():
        rng = np.random.default_rng((seed, zlib.crc32(name.encode())))  # the same pairs whatever else is asked
        if isinstance(task.matched, str):
            raise ConfigError(f"matched of {name} is a list of label columns: ({task.matched!r},)")
        drop = result.drop(task.metric)
        truth, classes = prompts.coded(task.label)
        if not set(classes) <= {"0", "1"}:
            raise PromptError(
                f"the label {task.label!r} is neither true nor false: it has {', '.join(classes[:5])} ..."
            )
        alike = [prompts.coded(column)[0] for column in task.matched]
        there = (truth >= 0) & ~drop.isnan().flatten(1).all(1).numpy()
        for codes in alike:
            there &= codes >= 0
        rows = np.flatnonzero(there)
        if not len(rows):
            continue
        asked = np.array([classes[code] == "1" for code in truth[rows]])
        strata = (
            np.unique(np.stack([codes[rows] for codes in alike], 1), axis=0, return_inverse=True)[1].reshape(-1)
            if alike
            else np.zeros(len(rows), dtype=np.int64)
        )
        having, lacking = matched(asked, strata, groups[rows], rng)
        if not len(having):
            continue
        own, other = drop[torch.from_numpy(rows[having])], drop[torch.from_numpy(rows[lacking])]
        trials[name] = Trial(own, other, torch.arange(len(own)))
    if not trials:
        raise PromptError("no sub-task has prompts that ask for it and matched ones that do not; give more prompts")
    return discover(
        trials, layers=result.layers, heads=result.columns, unit="drop in the share of digits that are right",
        control_name="matched problems that do not ask for it", minimum=minimum, seed=seed,
    )  # fmt: skip
