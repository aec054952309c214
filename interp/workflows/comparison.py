"""Two models on the same prompts: the same table of each, side by side, with the paired difference and its interval.

Cells are matched by name: a layer, a position, a depth that only one model has is left out. A head's number means the
same only within one training run (a checkpoint, a fine-tuned copy); of two seeds compare layers, positions and depths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analyses.ablation import Ablation
from interp.analyses.attribution import LogitAttribution
from interp.analyses.heads import HeadScores
from interp.analyses.logit_lens import LogitLens
from interp.analyses.patching import Patching
from interp.analyses.probing import Probing
from interp.errors import ConfigError, PromptError
from interp.estimates import Estimate, max_t, mean

_ENDS = ("value", "low", "high")
_ROUNDING = 1e-5


@dataclass(frozen=True, eq=False)
class Comparison:
    """One table of two models on the same prompts."""

    what: str
    unit: str
    names: tuple[str, ...]
    """The two models."""
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    first: Float[Tensor, "row column end"]
    """Mean over prompts, with the low and high end of its 95 % interval."""
    second: Float[Tensor, "row column end"]
    difference: Float[Tensor, "row column end"]
    """Second less first, prompt by prompt."""
    p: Float[Tensor, "row column"]
    """Two-sided p of no difference, corrected for having looked at every cell (studentized maximum)."""
    n: Int[Tensor, "row column"]
    """Groups behind the difference."""

    def estimate(self, of: str) -> Estimate:
        """`first`, `second` or `difference` as an estimate, [row, column]."""
        value, low, high = getattr(self, of).double().numpy().transpose(2, 0, 1)
        p = self.p.double().numpy() if of == "difference" else np.full_like(value, np.nan)
        return Estimate(value, low, high, p, self.n.numpy())

    def to_frame(self) -> pd.DataFrame:
        """One row for each cell."""
        index = pd.MultiIndex.from_product([self.rows, self.columns], names=["row", "column"])
        flat = {
            f"{of}_{end}": getattr(self, of)[..., i].reshape(-1).numpy()
            for of in ("first", "second", "difference")
            for i, end in enumerate(_ENDS)
        }
        return pd.DataFrame({**flat, "p": self.p.reshape(-1).numpy()}, index=index).reset_index()


@dataclass(frozen=True, eq=False)
class Table:
    """What is compared: one number for each prompt and cell."""

    what: str
    unit: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Float[Tensor, "prompt row column"]
    groups: Int[Tensor, " prompt"]


@singledispatch
def table_of(result: Any) -> Table:
    """The table of a result that can be compared. Raises ConfigError for other kinds of results."""
    raise ConfigError(f"results of the kind {type(result).__name__} cannot be compared")


@table_of.register
def _(result: Ablation) -> Table:
    metric = "exact_match" if "exact_match" in result.metrics else result.metrics[0]
    return Table(
        f"ablation of {result.site}", f"drop in {metric}", tuple(f"layer {layer}" for layer in result.layers),
        tuple(f"{result.axis} {c}" if c.lstrip("-").isdigit() else c for c in result.columns), result.drop(metric),
        result.groups,
    )  # fmt: skip


@table_of.register
def _(result: LogitLens) -> Table:
    return Table("logit lens", "share on top", result.depths, result.positions, result.right, result.groups)


@table_of.register
def _(result: Probing) -> Table:
    what = f"probes for {result.label}"
    return Table(what, "share right", result.depths, result.positions, result.right, result.groups)


@table_of.register
def _(result: LogitAttribution) -> Table:
    return Table(
        f"direct attribution by {result.split}", result.unit, ("direct effect",), result.components,
        result.values[:, None], result.groups,
    )  # fmt: skip


@table_of.register
def _(result: HeadScores) -> Table:
    heads = tuple(f"L{layer}H{head}" for layer in result.layers for head in range(result.values.shape[2]))
    return Table(
        "attention of heads", "share of attention", heads, result.scores, result.values.flatten(1, 2), result.groups
    )


@table_of.register
def _(result: Patching) -> Table:
    """Shares of the mean clean-corrupted difference, linearised, so that means over pairs are ratios of means."""
    whole = (result.clean - result.corrupted)[:, None, None].expand_as(result.moved)
    whole = whole.masked_fill(result.moved.isnan(), torch.nan)
    share = result.moved.nanmean(0) / whole.nanmean(0)
    values = share + (result.moved - share * whole) / whole.nanmean(0)
    columns = tuple(f"{result.axis} {c}" if c.lstrip("-").isdigit() else c for c in result.columns)
    rows = tuple(f"layer {layer}" for layer in result.layers)
    unit = f"share of the {result.metric} difference"
    return Table(f"patching {result.site}", unit, rows, columns, values, result.groups)


def compare(first: Any, second: Any, names: Sequence[str]) -> Comparison:
    """Compare two results of one kind on the same prompts in one order; `names` are those of the models.

    Results do not hold their prompts: what is checked is that both have the same groups in the same order. Differences
    below the rounding of 32-bit numbers count as none. Results of ablation, logit lens, patching, probing, direct
    attribution and head scores can be compared. Raises PromptError where the groups differ or where the two have
    no cell in common.
    """
    if len(set(names)) != 2:
        raise ConfigError(f"a comparison needs two different names, got {', '.join(names) or 'none'}")
    if type(first) is not type(second):
        raise ConfigError(f"a {type(first).__name__} cannot be compared with a {type(second).__name__}")
    one, other = table_of(first), table_of(second)
    if one.what != other.what or one.unit != other.unit:
        raise ConfigError(f"{one.what} ({one.unit}) cannot be compared with {other.what} ({other.unit})")
    if one.groups.shape != other.groups.shape or not torch.equal(one.groups, other.groups):
        raise PromptError("the two results are not on the same prompts; make both from the same ones, in one order")
    rows = tuple(name for name in one.rows if name in other.rows)
    columns = tuple(name for name in one.columns if name in other.columns)
    if not rows or not columns:
        raise PromptError(f"the two models have no row or column of {one.what} in common")
    both = [
        table.values[:, [table.rows.index(r) for r in rows]][:, :, [table.columns.index(c) for c in columns]]
        for table in (one, other)
    ]
    change = both[1] - both[0]
    change = change.masked_fill(change.abs() < _ROUNDING * (1 + both[0].abs()), 0.0)
    parts = (mean(both[0], one.groups), mean(both[1], one.groups), mean(change, one.groups))
    left, right, gap = (torch.from_numpy(np.stack([getattr(e, end) for end in _ENDS], -1)).float() for e in parts)
    p = torch.from_numpy(max_t(change, one.groups)).float()
    return Comparison(
        one.what, one.unit, tuple(names), rows, columns, left, right, gap, p, torch.from_numpy(parts[2].n)
    )
