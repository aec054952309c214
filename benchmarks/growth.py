"""How the cost of residual patching grows with the length of the prompts, the layers and the pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.inputs import Case, Shape
from benchmarks.jobs import JOBS, Task

SHAPE = Shape("{layers} layers x 128", 6, 128, 4, 1000)
LARGE = 3
"""So many of the largest points make the slope at the end."""


@dataclass(frozen=True)
class Line:
    """One thing that grows, the rest held."""

    name: str
    values: tuple[int, ...]
    task: Callable[[int], Task]


def _task(layers: int = SHAPE.layers, **case: int) -> Task:
    shape = Shape(SHAPE.name.format(layers=layers), layers, SHAPE.width, SHAPE.heads, SHAPE.vocabulary)
    return Task(JOBS["residual"], shape, Case(**case))


def lines(quick: bool) -> list[Line]:
    """Length 8 to 256, layers 2 to 24, pairs 1 to 64; with `quick` two points of each."""
    lengths, layers, pairs = (8, 16, 32, 64, 128, 256), (2, 4, 8, 12, 16, 24), (1, 2, 4, 8, 16, 32, 64)
    if quick:
        lengths, layers, pairs = (8, 32), (2, 6), (1, 8)
    return [
        Line("tokens", lengths, lambda value: _task(tokens=value, pairs=2)),
        Line("layers", layers, lambda value: _task(layers=value)),
        Line("pairs", pairs, lambda value: _task(pairs=value)),
    ]


def slopes(line: str, points: list[dict[str, Any]]) -> dict[str, Any]:
    """Slopes in logarithms of seconds, tool by tool, and of the counted operations, over all points and at the end."""
    names = [tool["tool"] for tool in points[0]["record"]["tools"]]
    found: dict[str, Any] = {"line": line, "slopes": {}}
    series = {"counted operations": [point["record"]["operations"] for point in points]}
    for name in names:
        series[name] = [_seconds(point["record"], name) for point in points]
    for name, seconds in series.items():
        there = [(point["value"], value) for point, value in zip(points, seconds, strict=True) if value]
        found["slopes"][name] = {"all": slope(there), "end": slope(there[-LARGE:])}
    return found


def _seconds(record: dict[str, Any], tool: str) -> float | None:
    return next((one["seconds"] for one in record["tools"] if one["tool"] == tool and not one["error"]), None)


def slope(points: list[tuple[int, float]]) -> float | None:
    """The power with which seconds grow: the slope of a straight line through the logarithms."""
    if len(points) < 2:
        return None
    x, y = np.log(np.array(points, dtype=float)).T
    return float(np.polyfit(x, y, 1)[0])
