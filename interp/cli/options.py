"""Options that several commands have, and what they mean."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from interp.errors import ConfigError

out_console = Console()


class WeightsName(StrEnum):
    """States of the weights."""

    raw = "raw"
    processed = "processed"


Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run; a run that was cut off goes on there.")]
Config = Annotated[Path | None, typer.Option("--config", help="Settings as YAML; see the README for the keys.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; by default a GPU where there is one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads of torch.")]
Weights = Annotated[WeightsName | None, typer.Option(help="raw, or processed (norms folded, weights centred).")]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1, help="Models looked at side by side; by default one a processor thread, on a GPU one at a time."
    ),
]
Png = Annotated[bool, typer.Option("--png/--no-png", help="Also write the figures as PNG (needs Chrome or Chromium).")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]


def named(only: str, known: Sequence[str]) -> dict[str, bool]:
    """The analyses named in --only."""
    chosen = [name.strip() for name in only.split(",") if name.strip()]
    if not chosen:
        raise ConfigError(f"--only names no analysis; choose from {', '.join(known)}")
    for name in chosen:
        if name not in known:
            raise ConfigError(f"there is no analysis {name!r}; choose from {', '.join(known)}")
    return {name: name in chosen for name in known}


def use_threads(threads: int | None) -> None:
    """Let torch use so many, where the option was given."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def typed() -> str:
    """The command as it was typed."""
    return " ".join(["interp", *map(shlex.quote, sys.argv[1:])])
