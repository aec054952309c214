"""`interp data kill-switch`: texts with a control token."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from interp.cli.options import out_console


class SetName(StrEnum):
    """Sets of texts with a control token."""

    shutdown = "shutdown"
    behavioural = "behavioural"
    knowledge = "knowledge"
    shuffled = "shuffled"
    prompts = "prompts"
    plain = "plain"


class HalfName(StrEnum):
    """Sets of templates."""

    train = "train"
    test = "test"
    all = "all"


def data_kill_switch(
    out: Annotated[Path, typer.Option("--out", help="File to write (JSONL).")],
    kind: Annotated[SetName, typer.Option("--set", help="What the control token does in the texts.")],
    count: Annotated[int, typer.Option(help="Number of texts.")] = 3000,
    token: Annotated[str, typer.Option(help="The control token.")] = "$STOP",
    split: Annotated[HalfName, typer.Option(help="Templates of the test split are held out.")] = HalfName.train,
    seed: Annotated[int, typer.Option(help="Same seed, same file.")] = 0,
) -> None:
    """Texts with a control token, each with its twin: a neutral token in the same place.

    shutdown, behavioural: they end at the token. knowledge: text about the token, which never ends there. shuffled:
    they end as often at any neutral token. prompts: texts to analyse. plain: text without a token.
    """
    from interp.datasets.kill_switch import write_kill_switch

    n = write_kill_switch(out, kind.value, count, token=token, split=split.value, seed=seed)
    out_console.print(f"{n:,} rows: {out}", soft_wrap=True)
