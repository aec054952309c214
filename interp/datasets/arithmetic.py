"""Addition, subtraction and multiplication of whole numbers, with every digit, carry and sub-task known.

Sub-tasks of a column follow Quirke & Barez, "Understanding Addition in Transformers" (arXiv 2310.13121): base-add (no
carry comes in), make-carry (the column alone makes one), make-nine (the column's sum is 9: it hands a carry on),
use-carry (a carry comes in from a column that makes it alone), use-nine (it comes in through a chain of nines). For
subtraction the same words mean the borrow: make-nine is then a column whose digits are equal. They are not defined
for multiplication, where only the carry is labelled.

A problem belongs to train, validation or test by a hash of its operator and operands, with the operands of + and * in
either order counted as one problem: what is held out was never seen, not even turned around.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from interp.errors import ConfigError, DataError, PromptError

Split = Literal["train", "validation", "test", "all"]
Carries = Literal["uniform", "rich"]

PLACES = ("ones", "tens", "hundreds", "thousands", "ten-thousands", "hundred-thousands", "millions", "ten-millions")
SUBTASKS = ("base-add", "make-carry", "make-nine", "use-carry", "use-nine")
TASKS = {"add": "+", "sub": "-", "mul": "*", "mixed": "+-*"}


class Problem(NamedTuple):
    """One problem."""

    a: int
    operator: str
    b: int

    @property
    def result(self) -> int:
        """The right answer."""
        return {"+": self.a + self.b, "-": self.a - self.b, "*": self.a * self.b}[self.operator]

    @property
    def question(self) -> str:
        """What is asked, without spaces: `59+73=`."""
        return f"{self.a}{self.operator}{self.b}="

    @property
    def steps(self) -> str:
        """Worked steps of an addition: each column's total from the ones up, as two digits: `12;13;`."""
        if self.operator != "+":
            raise ConfigError("worked steps are defined for addition only")
        return "".join(f"{column.total:02d};" for column in columns(self))

    @classmethod
    def parse(cls, text: str) -> Problem:
        """Read `59 + 73` (an `=` at the end is allowed). Raises PromptError for anything else."""
        found = re.fullmatch(r"\s*([0-9]{1,18})\s*([-+*])\s*([0-9]{1,18})\s*=?\s*", text)
        if found is None:
            shown = text if len(text) <= 60 else f"{text[:60]}..."
            raise PromptError(f"{shown!r} is no arithmetic example; write it like '59 + 73'")
        return cls(int(found[1]), found[2], int(found[3]))


class Column(NamedTuple):
    """One column of a worked problem, from the ones up."""

    a: int
    b: int
    carry_in: int
    total: int
    """Addition: digits plus carry. Subtraction: digits minus borrow, plus 10 where it borrows."""
    carry_out: int
    alone: int
    """The digits' sum (difference) without what comes in."""


def columns(problem: Problem) -> list[Column]:
    """The columns of an addition or subtraction (of the smaller from the larger), the ones first."""
    large, small = problem.a, problem.b
    sign = 1
    if problem.operator == "-":
        large, small, sign = max(large, small), min(large, small), -1
    found: list[Column] = []
    carry = 0
    for place in range(max(len(str(large)), len(str(small)))):
        x, y = large // 10**place % 10, small // 10**place % 10
        alone = x + sign * y
        total = alone + sign * carry
        out = int(total > 9) if sign > 0 else int(total < 0)
        found.append(Column(x, y, carry, total if sign > 0 else total + 10 * out, out, alone))
        carry = out
    return found


def _multiplication_carries(problem: Problem) -> list[int]:
    x, y = ([int(d) for d in str(v)[::-1]] for v in (problem.a, problem.b))
    found, carry = [], 0
    for place in range(len(x) + len(y) - 1):
        total = carry + sum(x[i] * y[place - i] for i in range(len(x)) if 0 <= place - i < len(y))
        carry = total // 10
        found.append(carry)
    return found


def labels(problem: Problem) -> dict[str, object]:
    """Everything known of a problem: operator, operands, digits, carries and sub-tasks by column.

    Raises PromptError for numbers with more digits than `PLACES` has names.
    """
    if max(problem.a, problem.b, abs(problem.result)) >= 10 ** len(PLACES):
        raise PromptError(f"{problem.question} has a number of more than {len(PLACES)} digits; take smaller ones")
    row: dict[str, object] = {"a": problem.a, "operator": problem.operator, "b": problem.b, "result": problem.result}
    for name, number in (("a", problem.a), ("b", problem.b), ("answer", abs(problem.result))):
        row |= {f"{name}.{PLACES[i]}": int(d) for i, d in enumerate(str(number)[::-1])}
    if problem.operator == "*":
        carries = _multiplication_carries(problem)
        row |= {f"carry.{PLACES[i]}": carry for i, carry in enumerate(carries)}
        row |= {"carries": sum(c > 0 for c in carries), "cascade": 0}
        return row
    worked = columns(problem)
    if worked[-1].carry_out:  # the carry out of the last column makes a column of its own
        worked.append(Column(0, 0, 1, 1, 0, 0))
    chain = longest = 0
    for i, column in enumerate(worked):
        below = worked[i - 1] if i else None
        neutral = column.alone == (9 if problem.operator == "+" else 0)
        through = below is not None and bool(column.carry_in) and _neutral(below, problem.operator)
        chain = chain + 1 if column.carry_in and neutral else 0
        longest = max(longest, chain)
        row |= {
            f"carry.{PLACES[i]}": column.carry_out,
            f"base-add.{PLACES[i]}": not column.carry_in,
            f"make-carry.{PLACES[i]}": column.alone > 9 if problem.operator == "+" else column.alone < 0,
            f"make-nine.{PLACES[i]}": neutral,
            f"use-carry.{PLACES[i]}": bool(column.carry_in) and not through,
            f"use-nine.{PLACES[i]}": through,
        }
    row |= {"carries": sum(c.carry_out for c in worked), "cascade": longest}
    return row


def _neutral(column: Column, operator: str) -> bool:
    return column.alone == (9 if operator == "+" else 0)


def split_of(a: NDArray[np.int64], operator: str, b: NDArray[np.int64]) -> Shaped[np.ndarray, " problem"]:
    """Which split each problem belongs to: 90 % train, 5 % validation, 5 % test, by hash."""
    low, high = (a, b) if operator == "-" else (np.minimum(a, b), np.maximum(a, b))
    with np.errstate(over="ignore"):  # splitmix64: wrapping is meant
        key = low.astype(np.uint64) * np.uint64(1 << 31) + high.astype(np.uint64)
        key = key * np.uint64(4) + np.uint64("+-*".index(operator))
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bucket = ((key ^ (key >> np.uint64(31))) % np.uint64(20)).astype(np.int64)
    return np.where(bucket == 0, "test", np.where(bucket == 1, "validation", "train"))


def split_of_problem(problem: Problem) -> str:
    """Which split one problem belongs to."""
    return str(split_of(np.array([problem.a]), problem.operator, np.array([problem.b]))[0])


def sample(
    rng: np.random.Generator,
    count: int,
    *,
    task: str = "add",
    digits: int = 3,
    carries: Carries = "uniform",
    split: Split = "all",
    distinct: bool = False,
    multiplier_digits: int | None = None,
) -> list[Problem]:
    """Problems with operands of 1 to `digits` digits, each length equally likely.

    The second factor of a multiplication has up to `multiplier_digits` (by default `digits`).

    `carries="rich"` moves a third of the additions and subtractions to the edge of a carry chain: their two or more
    low columns come to 99..9 plus 0, 1 or 2 (in a difference: to 0 less 0, 1 or 2), so that a carry just runs through
    all of them or just does not. With `distinct` no problem comes twice; raises DataError where the split does not hold
    that many.
    """
    if task not in TASKS:
        raise ConfigError(f"there is no task {task!r}; choose from {', '.join(TASKS)}")
    if not 1 <= digits <= 4:
        raise ConfigError(f"digits must be 1 to 4, not {digits}")
    if count < 1:
        raise ConfigError(f"count must be at least 1, not {count}")
    multiplier = digits if multiplier_digits is None else multiplier_digits
    if not 1 <= multiplier <= digits:
        raise ConfigError(f"multiplier_digits must be 1 to {digits}, not {multiplier}")
    operators = TASKS[task]
    if distinct and count > len(operators) * 10 ** (2 * digits):
        there = len(operators) * 10 ** (2 * digits)
        raise DataError(f"there are {there} different problems of up to {digits} digits, not {count}; ask for fewer")
    found: dict[Problem, None] = {}
    listed: list[Problem] = []
    stale = 0
    while (len(found) if distinct else len(listed)) < count:
        before = len(found)
        for operator in operators:
            n = max(64, 2 * count // len(operators))
            a = _numbers(rng, n, digits)
            b = _numbers(rng, n, multiplier if operator == "*" else digits)
            if carries == "rich" and operator != "*":
                a, b = _chains(rng, a, b, operator, digits)
            if split != "all":
                kept = split_of(a, operator, b) == split
                a, b = a[kept], b[kept]
            batch = [Problem(x, operator, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
            listed.extend(batch)
            if distinct:
                found.update(dict.fromkeys(batch))
        stale = stale + 1 if len(found) == before else 0
        if distinct and stale > 30:
            raise DataError(
                f"there are only about {len(found)} different problems of this kind in the split {split!r}, "
                f"not {count}; ask for fewer or for more digits"
            )
    pool = list(found) if distinct else listed
    return [pool[i] for i in rng.permutation(len(pool))[:count]]


def _numbers(rng: np.random.Generator, n: int, digits: int) -> NDArray[np.int64]:
    length = rng.integers(1, digits + 1, n)
    low = np.where(length == 1, 0, 10 ** (length - 1))
    return low + (rng.random(n) * (10**length - low)).astype(np.int64)


def _chains(
    rng: np.random.Generator, a: NDArray[np.int64], b: NDArray[np.int64], operator: str, digits: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Move a third of the problems to the edge of a carry chain.

    The low columns of a sum come to 99..9 plus 0, 1 or 2; in a difference the larger number's low columns fall short
    of the smaller one's by 0, 1 or 2, and its higher ones are larger.
    """
    most = digits if operator == "+" else digits - 1
    if most == 0:
        return a, b
    n = len(a) // 3
    modulus = 10 ** rng.integers(min(2, most), most + 1, n)
    above, low = np.divmod(a[:n], modulus)
    room = 10**digits // modulus
    high, beyond = rng.integers(0, room), rng.integers(0, 3, n)
    if operator == "+":
        wanted = modulus - 1 - low + beyond
    else:
        high = np.where(high == above, (high + 1) % room, high)
        wanted = low + np.where(high > above, -beyond, beyond)
    moved = wanted + modulus * high
    b = b.copy()
    b[:n] = np.where((wanted >= 0) & (moved < 10**digits), moved, b[:n])
    return a, b
