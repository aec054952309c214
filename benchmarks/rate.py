"""How fast this machine multiplies matrices, in float32 and in as many threads as the jobs have."""

from __future__ import annotations

import time

import torch

TOKENS = 1024
LARGE = 1024
SECONDS = 0.1


def names(width: int) -> list[str]:
    """The products that are measured: a layer's (tokens by neurons), and a large square one."""
    return [f"[{TOKENS}, {width}] x [{width}, {4 * width}]", f"[{LARGE}, {LARGE}] x [{LARGE}, {LARGE}]"]


def rates(width: int, device: str = "cpu") -> dict[str, float]:
    """Operations (a product and a sum are two) a second of each product, the best of those tried."""
    shapes = [(TOKENS, width, 4 * width), (LARGE, LARGE, LARGE)]
    return {name: _rate(*shape, device) for name, shape in zip(names(width), shapes, strict=True)}


def _rate(rows: int, inner: int, columns: int, device: str) -> float:
    left, right = torch.rand(rows, inner, device=device), torch.rand(inner, columns, device=device)
    out = torch.empty(rows, columns, device=device)
    best, until = float("inf"), time.perf_counter() + SECONDS
    while True:
        started = time.perf_counter()
        torch.mm(left, right, out=out)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        now = time.perf_counter()
        best = min(best, now - started)
        if now > until:
            return 2 * rows * inner * columns / best
