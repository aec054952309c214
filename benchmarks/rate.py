"""How fast this machine multiplies matrices, in float32 and in as many threads as the jobs have."""

from __future__ import annotations

import statistics
import time

import torch

TOKENS = 1024
LARGE = 1024
SECONDS = 0.25


def names(width: int) -> list[str]:
    """The products that are measured: a layer's (tokens by neurons), and a large square one."""
    return [f"[{TOKENS}, {width}] x [{width}, {4 * width}]", f"[{LARGE}, {LARGE}] x [{LARGE}, {LARGE}]"]


def rates(width: int, device: str = "cpu") -> dict[str, tuple[float, float]]:
    """Operations (a product and a sum are two) a second of each product: the median of a quarter second, and the best.

    Jobs take seconds and their times are medians, so it is the median that they are held against; on a machine that
    others use too, one product alone is now and then a third faster.
    """
    shapes = [(TOKENS, width, 4 * width), (LARGE, LARGE, LARGE)]
    return {name: _rate(*shape, device) for name, shape in zip(names(width), shapes, strict=True)}


def _rate(rows: int, inner: int, columns: int, device: str) -> tuple[float, float]:
    left, right = torch.rand(rows, inner, device=device), torch.rand(inner, columns, device=device)
    out = torch.empty(rows, columns, device=device)
    times: list[float] = []
    until = time.perf_counter() + SECONDS
    while not times or time.perf_counter() < until:
        started = time.perf_counter()
        torch.mm(left, right, out=out)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    operations = 2 * rows * inner * columns
    return operations / statistics.median(times), operations / min(times)
