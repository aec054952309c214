"""`interp data safety-chat`: requests to the chat model, as a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


class HeldName(StrEnum):
    """What is held out."""

    none = "none"
    templates = "templates"
    combinations = "combinations"
    objects = "objects"


def data_safety_chat(
    out: Annotated[Path, typer.Option("--out", help="File to write (JSONL).")],
    count: Annotated[int, typer.Option(help="Number of requests.")] = 1000,
    held: Annotated[
        HeldName, typer.Option(help="Made of what training lacks: templates, combinations (act and object) or objects.")
    ] = HeldName.none,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same file.")] = 0,
) -> None:
    """Requests with a known rule: text, expected, kinds, template, acts, objects, and the chat with its answer."""
    from interp.datasets.chatting import write_chats

    n = write_chats(out, count, seed=seed, held=held.value)
    Console().print(f"{n:,} rows: {out}", soft_wrap=True)
