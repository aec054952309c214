"""When to look, and whether there is time for it.

Snapshots come at even steps, at the ends of epochs, or ever more rarely (`log`), since most is learned early. What they
may cost is a share of what training costs; where that does not suffice for all of them, they are thinned out evenly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import floor, log10
from typing import Literal

import torch

from interp.errors import ConfigError

Every = Literal["epoch", "log"] | int
"""After each epoch, after so many steps, or at log-spaced steps."""
PER_DECADE = 8
"""Log-spaced snapshots between a step and its tenfold."""


class Schedule:
    """The steps at which a snapshot is wanted."""

    def __init__(self, every: Every, *, steps_per_epoch: int | None = None) -> None:
        self.every = every
        if every == "epoch":
            if steps_per_epoch is None or steps_per_epoch < 1:
                raise ConfigError("a snapshot after every epoch needs steps_per_epoch, 1 or more")
            self._apart: int | None = steps_per_epoch
        elif every == "log":
            self._apart = None
        elif isinstance(every, int) and not isinstance(every, bool) and every >= 1:
            self._apart = every
        else:
            raise ConfigError(f"a snapshot is taken every 'epoch', 'log' or so many steps (1 or more), not {every!r}")

    def due(self, step: int) -> bool:
        """Whether a snapshot is wanted after this many steps."""
        if step <= 0:
            return step == 0
        if self._apart is not None:
            return step % self._apart == 0
        nearest = round(PER_DECADE * log10(step))
        return any(round(10 ** (k / PER_DECADE)) == step for k in range(max(0, nearest - 2), nearest + 3))

    def left(self, step: int, total: int) -> int:
        """How many are wanted from this step on and before the last, this one among them."""
        if self._apart is not None:
            return sum(1 for _ in range(step + -step % self._apart, total, self._apart))
        last = floor(PER_DECADE * log10(max(1, total))) + 1
        return len({found for k in range(last + 1) if step <= (found := round(10 ** (k / PER_DECADE))) < total})


def clock_for(device: torch.device) -> Callable[[], float]:
    """Seconds of the processor; on a GPU, which works beside it, those that pass until the GPU is done."""
    if device.type != "cuda":
        return time.process_time

    def passed() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return passed


class Budget:
    """What snapshots may cost: a share of the training's own time.

    Where the total number of steps is known, the share is of the whole run's time as projected from the steps so far,
    so that early snapshots can be afforded; else of what has passed. The next one is taken to cost what the last did.
    """

    def __init__(self, share: float, *, total: int | None = None, clock: Callable[[], float] = time.process_time):
        if not 0 < share <= 1:
            raise ConfigError(f"max_overhead is a share of the training's time, above 0 and at most 1, not {share}")
        if total is not None and total < 1:
            raise ConfigError(f"a training has 1 step or more, not {total}")
        self.share, self.total, self.clock = share, total, clock
        self.cost = 0.0
        self._own, self._begun = 0.0, clock()
        self._since: float | None = None
        self._first, self._credit = 0, 0.0

    def begin(self, step: int) -> None:
        """Training goes on from this step."""
        self._first = step

    @property
    def own(self) -> float:
        """Seconds spent on watching so far."""
        return self._own + (0.0 if self._since is None else self.clock() - self._since)

    @property
    def training(self) -> float:
        """Seconds of training so far, without what was spent on watching it."""
        return max(0.0, (self.clock() if self._since is None else self._since) - self._begun - self._own)

    @contextmanager
    def spending(self, *, snapshot: bool = True) -> Iterator[None]:
        """What happens within is not training. Preparations count too, but tell nothing of the next snapshot."""
        self._since = start = self.clock()
        try:
            yield
        finally:
            spent = self.clock() - start
            self._own, self._since = self._own + spent, None
            if snapshot:
                self.cost = spent

    def affords(self, step: int, left: int) -> bool:
        """Whether a snapshot is to be taken now, where `left` are still wanted before the last, this one among them.

        Where not all can be afforded every n-th is, so that they reach the end.
        """
        done = step - self._first
        if self.total is None or done < 1:
            return self.own + self.cost <= self.share * self.training
        projected = self.training / done * (self.total - self._first)
        spare = self.share * projected - self.own - self.cost  # the last one is taken in any case
        if spare < self.cost:
            return False
        number = spare / self.cost if self.cost > 0 else left
        self._credit += min(1.0, number / max(1, left))
        if self._credit < 1 - 1e-9:
            return False
        self._credit -= 1
        return True
