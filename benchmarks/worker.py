"""The other end of the line: a process that runs jobs when told to.

A request is one line of JSON, and so is its answer. The worker keeps the model of the last file of inputs, so that
runs of several tools can take turns. Answers have a line of their own, so that a tool may print what it likes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.inputs import Case, Inputs, Pairs


@dataclass(frozen=True)
class Work:
    """A job in two parts, so that a long loop can be timed on some of its cells."""

    grid: Callable[[Any, Sequence[int] | None], Any]
    """(what `once` gave, numbers of the cells or None for all) -> values [pair, cell]."""
    once: Callable[[], Any] = lambda: None
    """What is done once, however many cells there are."""


Jobs = Mapping[str, Callable[[Any, Inputs, Case], Work]]


def whole(run: Callable[[], Any]) -> Work:
    """A job that is no loop over cells."""
    return Work(lambda _, __: run())


def serve(load: Callable[[Inputs], Any], jobs: Jobs, packages: Sequence[str]) -> None:
    """Answer requests until the line is closed. `load` makes the tool's model from a file of inputs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--line", type=int, default=1, help="file descriptor of the answers")
    given = parser.parse_known_args()[0]
    torch.set_num_threads(1)
    line = os.fdopen(given.line, "w")

    def say(answer: dict[str, Any]) -> None:
        line.write(json.dumps(answer) + "\n")
        line.flush()

    say({"versions": {name: _version(name) for name in packages}, "threads": torch.get_num_threads()})
    kept: tuple[Inputs, Any] | None = None
    for request in map(json.loads, sys.stdin):
        try:
            path = Path(request["inputs"])
            if kept is None or kept[0].path != path:
                kept = None
                gc.collect()
                inputs = Inputs(path, given.device)
                kept = inputs, load(inputs)
            say(answer(kept[1], kept[0], jobs, request))
        except Exception as error:
            import traceback

            traceback.print_exc()
            last = (str(error).strip().splitlines() or [""])[-1]
            say({"error": f"{type(error).__name__}: {last}"[:300]})


def answer(model: Any, inputs: Inputs, jobs: Jobs, request: Mapping[str, Any]) -> dict[str, Any]:
    """Run a job as often as asked; seconds of one run, apart for what is done once and for the grid."""
    work = jobs[request["job"]](model, inputs, Case(**request["case"]))
    gc.collect()
    repeat, cells = int(request.get("repeat", 1)), request.get("cells")
    wall, processor = np.zeros(2), np.zeros(2)
    found: Any = None
    for _ in range(repeat):
        marks = [_clock(inputs.device)]
        begun = work.once()
        marks.append(_clock(inputs.device))
        found = work.grid(begun, cells)
        marks.append(_clock(inputs.device))
        steps = np.diff(np.array(marks), axis=0) / repeat
        wall, processor = wall + steps[:, 0], processor + steps[:, 1]
    if request.get("out"):
        values = found.detach().cpu().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
        np.save(request["out"], values)
    return {"wall": wall.tolist(), "processor": processor.tolist()}


def _clock(device: str) -> tuple[float, float]:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"


def cell_loop(
    pairs: Pairs, total: int, run: Callable[[int], torch.Tensor], chosen: Sequence[int] | None
) -> torch.Tensor:
    """Values [pair, cell] of a plain loop over cells, `run` giving the scores of one of them."""
    return torch.stack([run(cell) for cell in (range(total) if chosen is None else chosen)], 1)
