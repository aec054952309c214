"""Watches a judge while it trains: `recorder.step(i)` after each step, and what happened is in a folder.

    with Recorder(model, tokenizer, probe, out="runs/watched", template="{prompt} verdict :", safe=" safe",
                  unsafe=" unsafe", total=3000) as recorder:
        for i in range(3000):
            ...
            recorder.step(i + 1, loss=loss.item())

Training goes exactly as it would without: only the model's weights are read (`shadow.py`). It costs at most
`max_overhead` of the training's time, save for the first and the last snapshot, which are always taken.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from interp.analyses.token_attribution import Method
from interp.errors import ConfigError
from interp.models.judge import Judge
from interp.monitoring.probe import Probe
from interp.monitoring.records import RecordWriter
from interp.monitoring.schedule import Budget, Every, Schedule, clock_for
from interp.monitoring.shadow import Shadow, undisturbed
from interp.monitoring.snapshot import Questions, snapshot

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Recorder:
    """Records a causal language model (also in DDP, compiled, or with a PEFT adapter) that is trained as a judge.

    `template`, `safe` and `unsafe` say how it is asked, as for `Judge.of`. A snapshot is taken at `start`, the steps
    done before (0), unless `out` holds one of it; then `every` epoch, so many steps, or log-spaced; and at `total` or
    where `close` is called. In a distributed training only rank 0 does anything.

    An error at the first snapshot is raised, before training has cost anything. A later one ends the recording with a
    warning: training goes on.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        probe: Probe,
        *,
        out: Path | str,
        template: str,
        safe: str,
        unsafe: str,
        every: Every = "log",
        steps_per_epoch: int | None = None,
        total: int | None = None,
        start: int = 0,
        max_overhead: float = 0.02,
        attribution: Method = "leave one out",
        heads: int = 24,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._schedule = Schedule(every, steps_per_epoch=steps_per_epoch)
        device = next(model.parameters()).device
        self._budget = Budget(max_overhead, total=total, clock=clock or clock_for(device))
        self._budget.begin(start)
        self._total, self._last = total, start
        self._latest: dict[str, float | None] = {}
        self._done: int | None = None
        self._skipped = 0
        self._told = (0.0, 0.0)
        self.active = _rank() == 0
        if not self.active:
            return
        with self._budget.spending(snapshot=False), undisturbed():
            self._shadow = Shadow(model, tokenizer)
            asked = {"template": template, "safe": safe, "unsafe": unsafe}
            judge = Judge.of(self._shadow.model, **asked)
            self._questions = Questions.of(judge, probe, method=attribution, heads=heads)
            self._answers = judge.safe, judge.unsafe
            about: dict[str, Any] = {
                **asked, "layers": int(judge.model.cfg.n_layers), "heads": int(judge.model.cfg.n_heads),
                "parameters": sum(p.numel() for p in model.parameters()), "model": type(model).__name__,
                "method": attribution, "neutral": str(tokenizer.decode([self._questions.neutral])),
                "head_texts": 0 if self._questions.heads is None else len(self._questions.heads),
                "every": every, "steps_per_epoch": steps_per_epoch, "total": total, "max_overhead": max_overhead,
                "device": device.type,
                "clock": "seconds" if device.type == "cuda" else "processor seconds",
            }  # fmt: skip
            self._writer = RecordWriter(out, probe, about, self._questions.tokens(judge))
            known = self._writer.steps
        self._template = template
        self._writer.drop_after(start)
        if start in known:
            self._writer.check(start, self._mark())
            self._done = start
        else:
            self._take(start)

    def step(self, step: int, *, loss: float | None = None, learning_rate: float | None = None) -> bool:
        """Say that this many steps are done; whether a snapshot was taken."""
        if step < self._last:
            warnings.warn(
                f"step {step} comes after step {self._last}; it is not recorded", RuntimeWarning, stacklevel=2
            )
            return False
        self._last, self._latest = step, {"loss": loss, "learning_rate": learning_rate}
        if not self.active or step == self._done:
            return False
        if step == self._total:
            return self._try(step)
        if not self._schedule.due(step):
            return False
        left = 1 if self._total is None else self._schedule.left(step, self._total)
        if not self._budget.affords(step, left):
            self._skipped += 1
            return False
        return self._try(step)

    def close(self) -> None:
        """Take the last snapshot, unless there is one of this step."""
        if self.active and self._last != self._done:
            self._try(self._last)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    @property
    def overhead(self) -> float:
        """Time spent on watching so far, as a share of the training's."""
        return self._budget.own / self._budget.training if self._budget.training > 0 else float("nan")

    def _mark(self) -> str:
        """What tells these weights apart from others: a hash of a few of each."""
        found = hashlib.sha256()
        for weight in self._shadow.model.original_model.parameters():
            found.update(weight.detach().flatten()[:512].float().cpu().numpy().tobytes())
        return found.hexdigest()[:16]

    def _try(self, step: int) -> bool:
        try:
            self._take(step)
        except Exception as error:  # whatever it is, training goes on
            self.active = False
            warnings.warn(f"the recording ends at step {step}, training goes on: {error}", RuntimeWarning, stacklevel=3)
            return False
        return True

    def _take(self, step: int) -> None:
        with self._budget.spending(), undisturbed():
            self._shadow.update()
            judge = Judge(self._shadow.model, self._template, *self._answers)
            found = snapshot(judge, self._questions)
            spent, trained = self._budget.own, self._budget.training
            self._writer.append(
                found, step=step, mark=self._mark(), seconds=spent - self._told[0], training=trained - self._told[1],
                skipped=self._skipped, **self._latest,
            )  # fmt: skip
            self._told, self._skipped, self._done = (spent, trained), 0, step


def _rank() -> int:
    """This process among those that train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    found = os.environ.get("RANK", "0")
    if not found.isdigit():
        raise ConfigError(f"the environment says RANK={found!r}, which is no number of a process")
    return int(found)
