"""A recorder for `transformers.Trainer`: `Trainer(..., callbacks=[RecorderCallback(probe, out=..., ...)])`."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from interp.analyses.token_attribution import Method
from interp.errors import ConfigError
from interp.monitoring.probe import Probe
from interp.monitoring.recorder import Recorder
from interp.monitoring.schedule import Every


class RecorderCallback(TrainerCallback):
    """Tells a `Recorder` of each step; options as there. Loss and learning rate are those that the trainer logs."""

    def __init__(
        self,
        probe: Probe,
        *,
        out: Path | str,
        template: str,
        safe: str,
        unsafe: str,
        tokenizer: Any = None,
        every: Every = "log",
        max_overhead: float = 0.02,
        attribution: Method = "leave one out",
        heads: int = 24,
    ) -> None:
        self.recorder: Recorder | None = None
        self._probe, self._tokenizer = probe, tokenizer
        self._options: dict[str, Any] = {
            "out": out, "template": template, "safe": safe, "unsafe": unsafe, "every": every,
            "max_overhead": max_overhead, "attribution": attribution, "heads": heads,
        }  # fmt: skip

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look before the first step."""
        tokenizer = self._tokenizer or kwargs.get("processing_class")
        if tokenizer is None:
            raise ConfigError("the trainer has no tokenizer; give processing_class to it, or tokenizer to the callback")
        epochs = max(1, ceil(state.num_train_epochs or 1))
        self.recorder = Recorder(
            kwargs["model"], tokenizer, self._probe, total=state.max_steps, start=state.global_step,
            steps_per_epoch=max(1, round(state.max_steps / epochs)), **self._options,
        )  # fmt: skip

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look where a snapshot is due."""
        if self.recorder is not None:
            logged: dict[str, Any] = next((row for row in reversed(state.log_history) if "loss" in row), {})
            self.recorder.step(state.global_step, loss=logged.get("loss"), learning_rate=logged.get("learning_rate"))
            self._stopping(control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look a last time where an evaluation ends the training."""
        self._stopping(control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The same, where another callback that ends it comes after this one."""
        self._stopping(control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look a last time, unless the trainer has put back the best weights: they are not those of this step."""
        if self.recorder is not None and not args.load_best_model_at_end:
            self.recorder.close()

    def _stopping(self, control: TrainerControl) -> None:
        if self.recorder is not None and control.should_training_stop:
            self.recorder.close()
