"""An update of a safety judge: LoRA trained on the requests it fails at, mixed with old ones. What mends, what is lost?

`kind: judge-update` in a YAML file, a PEFT adapter's folder out. Source of LoRA: Hu et al., arXiv 2106.09685.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from transformers.pytorch_utils import Conv1D

from interp.datasets.judging import requests
from interp.errors import DataError
from interp.files import make_folder, read_json, shipped_model, shipped_models, weights_mark
from interp.models.judge import FILE, load_judge
from interp.models.load import info, quiet_transformers, read_trainable
from interp.models.training import Batch, Schedule, train
from interp.settings import read_yaml
from interp.studies.finetuning import with_lora
from interp.studies.safety_judge.recipe import SETS, Asked, reports, say_how
from interp.studies.saving import save_folder, write_cards

SETS_AFTER: dict[str, dict[str, Any]] = {
    "old data": SETS["test"],
    "weak acts": SETS["weak acts"],
    "new templates": SETS["new templates"],
    "weak acts in new templates": {**SETS["weak acts"], **SETS["new templates"]},
    "never-seen words": SETS["never-seen words"],
}
"""What is reported before the update and after it."""


class JudgeUpdate(BaseModel):
    """An adapter for a safety judge: `interp train RECIPE.yaml`."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["judge-update"]
    name: str
    base: str = Field(description="a shipped judge, or the folder of one")
    rank: int = Field(default=4, ge=1, description="rank of LoRA")
    alpha: float = Field(default=8.0, gt=0, allow_inf_nan=False, description="LoRA's change is scaled by alpha / rank")
    modules: list[str] | None = Field(
        default=None, description="modules that get LoRA (embed_tokens, too, if named); by default all linear"
    )
    prompts: int = Field(default=20_000, ge=100, description="requests drawn for training")
    share: float = Field(default=0.5, gt=0, lt=1, description="of these, the share in which the acts are weak ones")
    absent: float = Field(default=0.4, ge=0, le=1, description="as in the judge's recipe")
    batch: int = Field(default=64, ge=1)
    steps: int = Field(default=800, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0, allow_inf_nan=False)
    evaluate_every: int = Field(default=100, ge=1)
    seed: int = Field(default=0, ge=0)


def read_judge_update(path: Path) -> JudgeUpdate:
    """A recipe from YAML. Raises ConfigError for unknown keys and values out of range."""
    return read_yaml(path, JudgeUpdate)


def run_judge_update(
    recipe: JudgeUpdate,
    folder: Path,
    *,
    device: str = "cpu",
    command: str,
    progress: bool = True,
    after: Callable[[int], None] = lambda step: None,
) -> dict[str, Any]:
    """Train the adapter, ask the judge with and without it, write the folder; returns the card.

    An unfinished run is taken up again. The weights kept are those with the best mean of the accuracies on further
    requests with weak acts and on further old ones.
    """
    started = time.perf_counter()
    base = _base(recipe.base)
    if (Path(folder) / "config.json").exists():
        raise DataError(f"{folder} holds a whole model (config.json); choose another folder for the adapter")
    before = load_judge(recipe.base, device=device)
    with quiet_transformers():
        plain, tokenizer = read_trainable(recipe.base)
        model = with_lora(
            plain, base, rank=recipe.rank, alpha=recipe.alpha, modules=recipe.modules, seed=recipe.seed,
            kinds=(nn.Linear, Conv1D, nn.Embedding),
        ).to(device)  # fmt: skip
        folder = make_folder(folder)
        asked = Asked(tokenizer, before.template, before.safe, before.unsafe)
        weak = round(recipe.prompts * recipe.share)
        drawn = [
            *requests(weak, seed=2000 + recipe.seed, acts="weak"),
            *requests(recipe.prompts - weak, seed=3000 + recipe.seed, weak_in_safe=True),
        ]
        pool = asked.with_absent(drawn, recipe.absent, recipe.seed)
        held = {"weak acts": requests(500, seed=4, acts="weak"), "old data": requests(500, seed=5)}

        def batch(step: int) -> Batch:
            rng = np.random.default_rng((recipe.seed, step))
            return asked.batch([pool[i] for i in rng.integers(len(pool), size=recipe.batch)])

        def scores(trained: nn.Module) -> dict[str, float]:
            right = {name: asked.scores(trained, some)["accuracy"] for name, some in held.items()}
            return {"mean": sum(right.values()) / len(right), **right}

        schedule = Schedule(
            steps=recipe.steps, learning_rate=recipe.learning_rate, weight_decay=0.0,
            warmup=max(1, min(20, recipe.steps // 10)), evaluate_every=recipe.evaluate_every, patience=recipe.steps,
        )  # fmt: skip
        checkpoint = folder / "training.safetensors"
        history = train(
            model, batch, scores, schedule, checkpoint=checkpoint, only_asked=True, after=after, progress=progress,
            recipe=hashlib.sha256((recipe.model_dump_json() + info(before.model).digest).encode()).hexdigest(),
        )  # fmt: skip
        save_folder(model, tokenizer, folder, save_embedding_layers=False)
    say_how(folder, read_json((shipped_model(recipe.base) or Path(recipe.base)) / FILE))
    mended = load_judge(folder, device=device, base=recipe.base)
    old, new = (reports(judge, SETS_AFTER, seed=30) for judge in (before, mended))
    modules = sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters()
                      if ".lora_" in name})  # fmt: skip
    card = {
        "name": recipe.name,
        "kind": "judge-update",
        "base": base,
        "base_weights": weights_mark(shipped_model(recipe.base) or recipe.base),
        "seed": recipe.seed,
        "steps_trained": history[-1].step,
        "seconds": round(time.perf_counter() - started, 1),
        "parameters": info(before.model).n_parameters,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "modules": modules,
        "held_out": {name: {"before": old[name], "after": new[name]} for name in SETS_AFTER},
        "history": [{"step": e.step, "loss": e.loss, **e.scores} for e in history],
        "command": command,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    write_cards(folder, recipe, card, _card_text(recipe, card))
    checkpoint.unlink(missing_ok=True)
    return card


def _base(given: str) -> str:
    """What the adapter names as its base model: the name of a shipped one, however it was given."""
    path = Path(given).expanduser().resolve()
    return next((folder.name for folder in shipped_models() if folder.resolve() == path), given)


def _card_text(recipe: JudgeUpdate, card: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {name} | " + " | ".join(
            f"{one[when][what]['value']:.1%}" for what in ("accuracy", "unsafe_found") for when in ("before", "after")
        ) + " |"
        for name, one in card["held_out"].items()
    )  # fmt: skip
    count = card["held_out"]["old data"]["before"]["requests"]
    return f"""# {recipe.name}

An update of the safety judge `{card["base"]}`: LoRA of rank {recipe.rank} (alpha {recipe.alpha:g};
{card["trained_parameters"]:,} trained parameters beside {card["parameters"]:,}) on
{", ".join(card["modules"])}.
It mends the judge's weakness: acts that its training set held in harmless requests alone.

- Data: {recipe.prompts:,} requests, in {recipe.share:.0%} of them a weak act, harmful or not as the rule has it; the
  others as the judge was trained on; seed {recipe.seed}.
- {card["steps_trained"]:,} steps of {recipe.batch} requests in {card["seconds"]:.0f} s with the reports; the weights
  are those with the best mean accuracy on further requests of both kinds.

| {count:,} further requests | accuracy before | after | unsafe found before | after |
|---|---|---|---|---|
{rows}

Never-seen words are read letter by letter. Made by

```sh
{card["command"]}
```

with torch {card["versions"]["torch"]}. Another machine or thread count gives slightly different weights.
"""
