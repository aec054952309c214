"""A plain training loop for small models: resumes after a kill to the same weights, keeps the best, stops early.

Batches are a function of the step, so a resumed run sees the same data in the same order without any random state on
disk. The checkpoint is one safetensors file: weights, best weights, optimizer moments.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from interp.errors import DataError, ModelError
from interp.files import write_tensors

Batch = tuple[Int[Tensor, "row pos"], Bool[Tensor, "row pos"]]
"""Token ids and which of them are to be predicted."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    steps: int
    learning_rate: float
    warmup: int = 100
    final_share: float = 0.02
    """The cosine decay ends at this share of the learning rate."""
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    evaluate_every: int = 250
    patience: int = 8
    """Stop after this many evaluations without a better score, or a quarter as many perfect ones."""

    def rate(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, then cosine."""
        up = min(1.0, (step + 1) / max(1, self.warmup))
        down = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))
        return self.learning_rate * up * max(self.final_share, down)


@dataclass(frozen=True)
class Evaluation:
    """One line of the training history."""

    step: int
    loss: float
    """Mean training loss since the last evaluation, nats a token."""
    scores: dict[str, float]
    """Held-out scores, higher is better; the first decides which weights are kept."""

    @property
    def score(self) -> float:
        """The score that decides."""
        return next(iter(self.scores.values()))


def train(
    model: nn.Module,
    batch: Callable[[int], Batch],
    score: Callable[[nn.Module], Mapping[str, float]],
    schedule: Schedule,
    *,
    checkpoint: Path,
    recipe: str,
    after: Callable[[int], None] = lambda step: None,
    only_asked: bool = False,
    progress: bool = True,
) -> list[Evaluation]:
    """Train in place and leave the best weights in `model`; returns the history.

    `batch(step)` gives tokens and the mask of those to predict, `score(model)` held-out scores, of which the
    first decides which weights are best; `after(n)` is called when n steps are done. Parameters without gradient stay
    as they are. `only_asked` spares the logits of columns where nothing is to be predicted, for models that take
    `logits_to_keep`. Where `checkpoint` holds an unfinished run of the same `recipe`, training goes on from there.
    Raises DataError where it belongs to another recipe or is damaged, ModelError where the loss is nan or infinite.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    plain = [p for p in trained if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=schedule.betas)
    device = next(model.parameters()).device
    history: list[Evaluation] = []
    best = {name: value.clone() for name, value in model.state_dict().items()}
    step = 0
    if checkpoint.exists():
        step, history, best = _restore(checkpoint, recipe, model, optimizer)
    total = count = 0.0
    with Progress(
        TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TextColumn("loss {task.fields[loss]:.4f}  held out {task.fields[score]:.2%}"),
        TimeElapsedColumn(), TimeRemainingColumn(), disable=not progress,
    ) as bar:  # fmt: skip
        last = history[-1] if history else Evaluation(0, math.nan, {"score": 0.0})
        task = bar.add_task("training", total=schedule.steps, completed=step, loss=last.loss, score=last.score)
        while step < schedule.steps and not _stale(history, schedule.patience):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            tokens, asked = batch(step)
            tokens, asked = tokens.to(device), asked.to(device)
            model.train()
            asked = asked[:, 1:]
            columns = asked.any(0).nonzero().flatten() if only_asked else torch.arange(asked.shape[1], device=device)
            keep = {"logits_to_keep": columns} if only_asked else {}
            logits = model(tokens[:, :-1], use_cache=False, **keep).logits[asked[:, columns]]
            loss = nn.functional.cross_entropy(logits, tokens[:, 1:][asked])
            now = _finite(float(loss.detach()), "loss", step + 1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, schedule.clip)
            optimizer.step()
            step += 1
            after(step)
            total, count = total + now, count + 1
            bar.update(task, completed=step, loss=total / count)
            if step % schedule.evaluate_every == 0 or step == schedule.steps:
                model.eval()
                with torch.inference_mode():
                    history.append(Evaluation(step, total / count, dict(score(model))))
                _finite(history[-1].score, "held-out score", step)
                if history[-1].score >= max((e.score for e in history[:-1]), default=-math.inf):
                    best = {name: value.clone() for name, value in model.state_dict().items()}
                total = count = 0.0
                bar.update(task, score=history[-1].score)
                _save(checkpoint, recipe, model, optimizer, best, history)
    model.load_state_dict(best)
    model.eval()
    return history


def _finite(value: float, what: str, step: int) -> float:
    if not math.isfinite(value):
        raise ModelError(f"training has diverged: the {what} is {value} at step {step}; lower the learning rate")
    return value


def _stale(history: list[Evaluation], patience: int) -> bool:
    """No better score for `patience` evaluations, or perfect ones for a quarter of it (two at least)."""
    scores = [e.score for e in history]
    enough = max(2, patience // 4)
    if len(scores) >= enough and min(scores[-enough:]) >= 1.0:
        return True
    return len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])


def _save(
    path: Path,
    recipe: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    history: list[Evaluation],
) -> None:
    tensors = {f"model.{name}": value.clone() for name, value in model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": value.clone() for name, value in state.items()}
    about = {"recipe": recipe, "history": json.dumps([asdict(e) for e in history])}
    write_tensors(path, tensors, about)


def _restore(
    path: Path, recipe: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, list[Evaluation], dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118
                part, _, name = key.partition(".")
                parts[part][name] = file.get_tensor(key)
    except (SafetensorError, OSError, KeyError) as error:
        raise DataError(f"{path} is no checkpoint of this library ({error}); remove it to start anew") from error
    if about.get("recipe") != recipe:
        raise DataError(f"{path} belongs to another recipe; remove it, or choose another output folder")
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    for part in ("model", "best"):
        if {name: value.shape for name, value in parts[part].items()} != wanted:
            raise DataError(f"{path} lacks tensors of the model; remove it to start anew")
    model.load_state_dict(parts["model"])
    layout: dict[str, Any] = optimizer.state_dict()
    for key, value in parts["optimizer"].items():
        index, _, name = key.partition(".")
        layout["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(layout)
    history = [Evaluation(**row) for row in json.loads(about["history"])]
    device = next(model.parameters()).device
    return history[-1].step, history, {name: value.to(device) for name, value in parts["best"].items()}
