"""`interp data safety-judge`: requests that a judge calls safe or unsafe, as a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


class ActsName(StrEnum):
    """Sets of acts."""

    known = "known"
    weak = "weak"
    new = "new"


def data_safety_judge(
    out: Annotated[Path, typer.Option("--out", help="File to write (JSONL).")],
    count: Annotated[int, typer.Option(help="Number of requests.")] = 1000,
    held_out: Annotated[bool, typer.Option("--held-out", help="In the templates that training lacks.")] = False,
    acts: Annotated[
        ActsName,
        typer.Option(help="known; weak (in training only where harmless); or new, with new objects."),
    ] = ActsName.known,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same file.")] = 0,
) -> None:
    """Requests with a known rule: text, label, category, kind, template, and the words that decide."""
    from interp.datasets.judging import write_judging

    n = write_judging(out, count, seed=seed, held_out=held_out, acts=acts.value)
    Console().print(f"{n:,} rows: {out}", soft_wrap=True)
