"""One task on all its tools: values first, then times in turn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.count import Count, operations
from benchmarks.jobs import OURS, Job, Task, Tool
from benchmarks.workers import ToolError, Workers

LONG_ROUND, FEW = 60.0, 3
"""A round longer than this is repeated only so often."""


@dataclass(frozen=True)
class Settings:
    """How long and how often things are timed."""

    runs: int = 5
    longest: float = 20.0
    """A loop that would take more seconds is timed on some of its cells."""
    shortest: float = 0.3
    """Seconds that one timing lasts at least: shorter runs are repeated in it."""


@dataclass
class Measured:
    """A tool's way through a task."""

    tool: Tool
    cells: list[int] | None = None
    """The cells it ran; None for all."""
    total: int | None = None
    values: NDArray[Any] | None = None
    difference: float | None = None
    agrees: bool | None = None
    against: str = ""
    """Whose values it was compared with."""
    error: str = ""
    repeat: int = 1
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def scaled(self, parts: Sequence[float]) -> float:
        """Seconds of the whole job from those for what is done once and for the cells that ran."""
        share = 1.0 if self.cells is None or self.total is None else self.total / len(self.cells)
        return parts[0] + parts[1] * share

    @property
    def timed(self) -> bool:
        """Whether its time counts."""
        return not self.error and self.agrees is not False


def measure(
    task: Task, inputs: Path, tools: Sequence[Tool], workers: Workers, settings: Settings, say: Callable[[str], None]
) -> dict[str, Any]:
    """Values of every tool, compared; then rounds in which every tool runs once. Returns a plain record."""
    ask = {"inputs": str(inputs), "job": task.job.key, "case": asdict(task.case)}
    found = [Measured(tool) for tool in tools if task.job.key in tool.jobs]
    for one in found:
        say(f"{task.job.key}, {task.shape.name}: values of {one.tool.name}")
        try:
            _values(one, task, ask, workers, settings)
        except ToolError as error:
            one.error = str(error)
    _compare(task.job, found)
    rates: list[tuple[float, float]] = []
    timed = [one for one in found if one.timed]
    rounds = settings.runs
    for number in range(settings.runs):
        if number >= rounds:
            break
        say(f"{task.job.key}, {task.shape.name}: round {number + 1} of {rounds}")
        rates.append(_rate(ask, workers))
        for one in [one for one in timed if one.timed]:
            try:
                reply = workers.of(one.tool).ask(**ask, cells=one.cells, repeat=one.repeat)
            except ToolError as error:
                one.error = str(error)
                continue
            one.wall.append(one.scaled(reply["wall"]))
            one.processor.append(one.scaled(reply["processor"]))
        if number == 0 and sum(_spent(one) for one in timed) > LONG_ROUND:
            rounds = min(rounds, FEW)
    return _record(task, found, rates, workers.device)


def _values(one: Measured, task: Task, ask: Mapping[str, Any], workers: Workers, settings: Settings) -> None:
    """Run once for the values; on some of the cells where all would take too long."""
    worker, job = workers.of(one.tool), task.job
    if job.cells is not None:
        one.total = job.cells(task.shape, task.case)
        few = one.tool.samples(one.total)
        if 0 < few < one.total:
            some = _spread(2, one.total)
            worker.ask(**ask, cells=some)
            once, grid = worker.ask(**ask, cells=some)["wall"]
            if once + grid / len(some) * one.total > settings.longest:
                one.cells = _spread(few, one.total)
    out = workers.logs / "values.npy"
    reply = worker.ask(**ask, cells=one.cells, out=str(out))
    one.values = np.load(out)
    out.unlink()
    seconds = sum(reply["wall"])
    if seconds < settings.shortest:  # the first run also warmed up
        seconds = sum(worker.ask(**ask, cells=one.cells)["wall"])
    one.repeat = max(1, min(100, math.ceil(settings.shortest / max(seconds, 1e-4))))


def _spread(count: int, total: int) -> list[int]:
    return sorted({int(cell) for cell in np.linspace(0, total - 1, count).round()})


def _compare(job: Job, found: Sequence[Measured]) -> None:
    """Each tool's values beside interp's, or beside the first that there are."""
    there = [one for one in found if one.values is not None]
    if not there:
        return
    reference = there[0]
    wanted = reference.values
    assert wanted is not None
    for one in there[1:]:
        assert one.values is not None
        one.against = reference.tool.name
        if reference.cells is not None and one.cells != reference.cells:
            one.error = "its cells are not those of the reference"
            continue
        mine = wanted if one.cells is None or reference.cells is not None else wanted[:, one.cells]
        if len(one.values) == 1 and len(mine) > 1:  # a tool that gives the mean over pairs alone
            mine = mine.mean(0, keepdims=True)
        if one.values.shape != mine.shape:
            one.error = f"its values have the shape {one.values.shape}, not {mine.shape}"
            continue
        one.difference, one.agrees = difference(job, one.values, mine)


def difference(job: Job, values: NDArray[Any], wanted: NDArray[Any]) -> tuple[float, bool]:
    """How far two tools' values are apart, and whether that is within the job's tolerance."""
    if job.agreement:
        apart = float((values != wanted).mean())
        return apart, apart <= job.tolerance
    apart = float(np.abs(values - wanted).max())
    return apart, bool(apart <= job.tolerance * max(1.0, float(np.abs(wanted).max())))


def _rate(ask: Mapping[str, Any], workers: Workers) -> tuple[float, float]:
    """Median and best rate of the faster product."""
    out = workers.logs / "rate.npy"
    try:
        workers.of(OURS).ask(**{**ask, "job": "rate"}, out=str(out))
        sustained, best = np.load(out).max(0).tolist()
    except ToolError:
        return float("nan"), float("nan")
    return sustained, best


def _spent(one: Measured) -> float:
    return one.wall[-1] * one.repeat / one.scaled([0, 1]) if one.wall else 0.0


def _record(task: Task, found: Sequence[Measured], rates: Sequence[tuple[float, float]], device: str) -> dict[str, Any]:
    """What goes into the JSON."""
    ours = next((one for one in found if one.tool == OURS and one.wall and not one.error), None)
    counted = operations(task.job.key, task.shape, task.case)
    record: dict[str, Any] = {
        "job": task.job.key,
        "model": task.shape.name,
        "case": asdict(task.case),
        "device": device,
        "tolerance": task.job.tolerance,
        "operations": counted,
        "naive_operations": None,
        "matrix_rate": [sustained for sustained, _ in rates],
        "best_matrix_rate": [best for _, best in rates],
        "limit_seconds": None,
        "efficiency": None,
        "efficiency_of_best": None,
        "tools": [_tool(one, ours) for one in found],
    }
    if task.job.cells is not None:
        naive = Count(task.shape, task.case).naive()
        record["naive_operations"] = task.case.pairs * task.job.cells(task.shape, task.case) * naive
    known = [(sustained, best) for sustained, best in rates if sustained > 0]
    if counted is not None and known:
        record["limit_seconds"] = counted / statistics.median(sustained for sustained, _ in known)
        if ours is not None:
            took = statistics.median(ours.wall)
            record["efficiency"] = record["limit_seconds"] / took
            record["efficiency_of_best"] = counted / max(best for _, best in known) / took
    return record


def _tool(one: Measured, ours: Measured | None) -> dict[str, Any]:
    ratio = None
    if ours is not None and one.wall and not one.error:
        ratio = statistics.median(theirs / own for theirs, own in zip(one.wall, ours.wall, strict=True))
    largest = None if one.values is None else float(np.abs(one.values).max())
    return {
        "tool": one.tool.name,
        "error": one.error or None,
        "cells_run": None if one.cells is None else len(one.cells),
        "cells": one.total,
        "compared_with": one.against or None,
        "largest_difference": one.difference,
        "largest_value": largest,
        "agrees": one.agrees,
        "seconds": statistics.median(one.wall) if one.wall else None,
        "processor_seconds": statistics.median(one.processor) if one.processor else None,
        "ratio": ratio,
        "rounds": one.wall,
        "processor_rounds": one.processor,
        "repeats_in_a_round": one.repeat,
    }
