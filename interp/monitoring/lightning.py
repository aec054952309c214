"""A recorder for Lightning, which is not among the dependencies: `Trainer(callbacks=[lightning_callback(...)])`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from interp.errors import ConfigError
from interp.monitoring.probe import Probe
from interp.monitoring.recorder import Recorder


class _Watching:
    """The hooks of a Lightning callback. Named apart so that nothing here needs Lightning."""

    recorder: Recorder | None = None

    def __init__(self, probe: Probe, tokenizer: Any, model_of: Callable[[Any], nn.Module], options: dict[str, Any]):
        super().__init__()
        self._probe, self._tokenizer, self._model_of, self._options = probe, tokenizer, model_of, options

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Look before the first step."""
        total = int(trainer.estimated_stepping_batches) if trainer.estimated_stepping_batches < float("inf") else None
        epochs = trainer.max_epochs or 0
        per_epoch = max(1, total // epochs) if total and epochs > 0 else None
        self.recorder = Recorder(
            self._model_of(pl_module), self._tokenizer, self._probe, total=total, start=int(trainer.global_step),
            steps_per_epoch=per_epoch, **self._options,
        )  # fmt: skip

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look where a snapshot is due. With gradient accumulation a step has several batches."""
        if self.recorder is not None:
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            self.recorder.step(int(trainer.global_step), loss=None if loss is None else float(loss))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Look a last time."""
        if self.recorder is not None:
            self.recorder.close()


def lightning_callback(
    probe: Probe,
    tokenizer: Any,
    *,
    model_of: Callable[[Any], nn.Module] = lambda module: module.model,
    **options: Any,
) -> Any:
    """A Lightning callback that tells a `Recorder` of each step; `options` as there (out, template, safe, unsafe, ...).

    `model_of` finds the Hugging Face model in the LightningModule. Raises ConfigError where Lightning is missing.
    """
    for name in ("lightning.pytorch", "pytorch_lightning"):
        try:
            base = import_module(name).Callback
        except ImportError:
            continue
        made = type("RecorderCallback", (_Watching, base), {})
        return made(probe, tokenizer, model_of, options)
    raise ConfigError("Lightning is not installed; pip install lightning")
