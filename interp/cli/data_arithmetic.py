"""`interp data arithmetic`: problems, or minimal pairs of them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from interp.cli.options import out_console


class TaskName(StrEnum):
    """Arithmetic tasks."""

    add = "add"
    sub = "sub"
    mul = "mul"
    mixed = "mixed"


class CarriesName(StrEnum):
    """How often carries chain."""

    uniform = "uniform"
    rich = "rich"


class SplitName(StrEnum):
    """Parts of the data that share no problem."""

    train = "train"
    validation = "validation"
    test = "test"
    all = "all"


class PairsName(StrEnum):
    """Kinds of minimal pairs."""

    digit = "digit"
    carry = "carry"
    operator = "operator"


def data_arithmetic(
    out: Annotated[Path, typer.Option("--out", help="File to write (JSONL).")],
    task: Annotated[TaskName, typer.Option(help="Which operators.")] = TaskName.add,
    digits: Annotated[int, typer.Option(help="Operands have 1 to this many digits.")] = 3,
    count: Annotated[int, typer.Option(help="Number of problems.")] = 1000,
    steps: Annotated[bool, typer.Option("--steps/--no-steps", help="With worked steps before the answer.")] = False,
    carries: Annotated[CarriesName, typer.Option(help="uniform, or rich in chains of carries.")] = CarriesName.uniform,
    split: Annotated[SplitName, typer.Option(help="Splits share no problem, in either order.")] = SplitName.all,
    pairs: Annotated[PairsName | None, typer.Option(help="Minimal pairs of this kind instead of problems.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same file.")] = 0,
) -> None:
    """Arithmetic problems with roles, carries and sub-tasks, or minimal pairs of them."""
    from interp.datasets.arithmetic_files import write_arithmetic

    n = write_arithmetic(
        out, task=task.value, digits=digits, count=count, steps=steps, carries=carries.value, split=split.value,
        pairs=pairs.value if pairs else None, seed=seed,
    )  # fmt: skip
    out_console.print(f"{n:,} rows: {out}", soft_wrap=True)
