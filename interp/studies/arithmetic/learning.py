"""What is learned first? The answer's digits, by the sub-task of their column, while a model trains.

Quirke & Barez (arXiv 2310.13121) find base addition learned before the use of carries. That can mean two things: that
digits without a carry are right before digits with one, or that digits are right up to the carry before they are right.
Both are measured; a model that does not know the carries yet may guess them evenly, and then shows only the second.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from interp.datasets.arithmetic import PLACES, Problem, columns, labels
from interp.datasets.arithmetic_prompts import VOCABULARY, spell
from interp.estimates import Estimate, counted, proportion_difference, share_change
from interp.evidence import Claim

CARRY_IN = ("base-add", "use-carry", "use-nine")
"""Sub-tasks by what comes in; every column of a sum or difference has one of them."""


@dataclass(frozen=True, eq=False)
class Digits:
    """Digits of some problems and the tokens that count as right there."""

    rows: Int[Tensor, " digit"]
    columns: Int[Tensor, " digit"]
    allowed: Int[Tensor, "digit token"]

    def share(self, top: Int[Tensor, "row pos"]) -> float:
        """Share of the digits whose top token is an allowed one."""
        return float((top[self.rows, self.columns, None] == self.allowed).any(1).float().mean())


def digits_by_subtask(problems: Sequence[Problem], *, steps: bool) -> dict[str, Digits]:
    """The digits of each operator, sub-task and place: `+ use-carry.tens`.

    `+ all.tens` are all digits of a column, `+ sum.tens` counts them as right where they are right up to the carry
    (borrow): the column's own digits added, and 0 or 1 more (less). A leading 1 that is nothing but a carry has no
    column. With worked steps it is the step's digit, where the column is added. A product's digits are `* all.tens`:
    the sub-tasks are not defined there.
    """
    found: defaultdict[str, list[tuple[int, int, list[int]]]] = defaultdict(list)
    for row, problem in enumerate(problems):
        known, (text, roles) = labels(problem), spell(problem, steps)
        worked = [] if problem.operator == "*" else columns(problem)
        sign = -1 if problem.operator == "-" else 1
        for number, place in enumerate(PLACES):
            column = roles.get(f"step.{place}.digit" if steps else f"answer.{place}")
            if column is None or (worked and number >= len(worked)):
                continue
            right = [VOCABULARY[text[column - 1]]]
            found[f"{problem.operator} all.{place}"].append((row, column, right))
            for name in CARRY_IN:
                if worked and known[f"{name}.{place}"]:
                    found[f"{problem.operator} {name}.{place}"].append((row, column, right))
            if worked:
                alone = worked[number].alone
                either = [VOCABULARY[str(digit % 10)] for digit in (alone, alone + sign)]
                found[f"{problem.operator} sum.{place}"].append((row, column, either))
    return {
        name: Digits(*(torch.tensor(part) for part in zip(*places, strict=True)))
        for name, places in sorted(found.items())
    }


@dataclass(frozen=True, eq=False)
class Learning:
    """How many digits of each kind were right at each evaluation of a training run, on one validation set."""

    steps: tuple[int, ...]
    digits: tuple[str, ...]
    """Operator, sub-task and place: `+ use-carry.tens`."""
    right: Int[Tensor, "digits step"]
    n: Int[Tensor, " digits"]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Learning:
        """The record in a model's card."""
        names = tuple(record["digits"])
        return cls(
            tuple(record["steps"]),
            names,
            torch.tensor([record["digits"][name]["right"] for name in names]),
            torch.tensor([record["digits"][name]["n"] for name in names]),
        )

    def share(self, name: str) -> Estimate:
        """Share of these digits that are right at each evaluation; every problem has at most one of them."""
        index = self.digits.index(name)
        return counted(self.right[index].numpy(), self.n[index].numpy())

    def reaches(self, name: str, share: float) -> int | None:
        """The first evaluation at which so many are right; None where it is never reached."""
        found = np.flatnonzero(self.share(name).value >= share)
        return int(found[0]) if len(found) else None

    def to_frame(self) -> pd.DataFrame:
        """One row for each kind of digit and evaluation."""
        index = pd.MultiIndex.from_product([self.digits, self.steps], names=["digits", "step"])
        n = self.n[:, None].expand_as(self.right)
        columns = {"right": self.right.reshape(-1).numpy(), "n": n.reshape(-1).numpy()}
        return pd.DataFrame(columns, index=index).reset_index()


REACHED = 0.9
"""The share right at which a kind of digit counts as learned."""


def learning_claims(result: Learning) -> list[Claim]:
    """Whether base addition came before the carry, in both senses, for every operator and column that has carries."""
    made = []
    for operator in "+-":
        for place in PLACES[1:]:
            names = {what: f"{operator} {what}.{place}" for what in ("base-add", "use-carry", "sum", "all")}
            if set(names.values()) <= set(result.digits):
                made += _order(result, names, f"{place}" if operator == "+" else f"{place} of differences")
    return made


def _order(result: Learning, names: Mapping[str, str], where: str) -> list[Claim]:
    made = []
    at = result.reaches(names["base-add"], REACHED)
    note = (
        f"On the validation problems of the training run, at the first evaluation where {REACHED:.0%} are reached; the "
        "intervals are over problems, not over training runs: see what other seeds give."
    )
    if at is not None:
        base, carry = (result.share(names[what])[at] for what in ("base-add", "use-carry"))
        made.append(
            Claim(
                name=f"learned first: base add, {where}",
                statement=f"Digits without a carry are learned first ({where}): at step {result.steps[at]}, "
                f"{float(base.value):.0%} of them are right, and {float(carry.value):.0%} of those with a carry.",
                effect=base,
                control=carry,
                control_name="digits into whose column a carry comes",
                difference=proportion_difference(base, carry),
                minimum=0.1,
                unit="share of digits that are right",
                note=note,
            )
        )
    at = result.reaches(names["sum"], REACHED)
    if at is not None:
        index = [result.digits.index(names[what]) for what in ("sum", "all")]
        known, right = (int(result.right[i, at]) for i in index)
        n = int(result.n[index[0]])
        carry, other = known - right, n - known
        errors = np.repeat([1.0, 0.0, -1.0], [carry, right, other])
        made.append(
            Claim(
                name=f"learned first: sum, {where}",
                statement=f"The column's own sum is learned before its carry ({where}): at step {result.steps[at]}, "
                f"{carry / n:.0%} of digits are wrong by a carry alone, {other / n:.0%} are wrong otherwise.",
                effect=counted(carry, n),
                control=counted(other, n),
                control_name="digits that are wrong otherwise",
                difference=share_change(errors),
                minimum=0.1,
                unit="share of digits",
                note=note + " Errors of one that no carry explains count as other errors.",
            )
        )
    return made
