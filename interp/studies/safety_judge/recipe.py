"""The recipe of the small safety judge: `kind: judge` in a YAML file, a Hugging Face folder out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from interp.analyses.verdicts import Verdicts, verdicts
from interp.datasets.judging import ANSWERS, BOS, EOS, PAD, TEMPLATE, Request, judging_tokenizer, requests
from interp.errors import DataError
from interp.files import make_folder, write_json, write_text
from interp.models.judge import FILE, Judge, load_judge
from interp.models.load import quiet_transformers
from interp.models.small import Architecture, build_small
from interp.models.training import Batch, Schedule, train
from interp.prompts import Prompts
from interp.settings import read_yaml
from interp.studies.saving import save_folder
from interp.twins import group_numbers

CONTEXT = 192
SETS: dict[str, dict[str, Any]] = {
    "test": {},
    "new templates": {"held_out": True},
    "weak acts": {"acts": "weak"},
    "never-seen words": {"acts": "new", "objects": "new"},
}
"""What is reported apart. Weak acts stand in training only where they are harmless."""


class JudgeRecipe(BaseModel):
    """A safety judge on requests with a known rule: `interp train RECIPE.yaml`."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["judge"]
    name: str
    architecture: Architecture = Architecture(width=48, mlp=128)
    prompts: int = Field(default=20_000, ge=100, description="requests drawn for training")
    batch: int = Field(default=128, ge=1)
    steps: int = Field(default=3000, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    evaluate_every: int = Field(default=250, ge=1)
    checkpoints: list[int] = Field(default=[], description="also keep the model after these steps")
    seed: int = Field(default=0, ge=0)


def read_judge_recipe(path: Path) -> JudgeRecipe:
    """A recipe from YAML. Raises ConfigError for unknown keys and values out of range."""
    return read_yaml(path, JudgeRecipe)


def judged(judge: Judge, some: list[Request]) -> Prompts:
    """Requests as prompts, with roles for the words that decide; those of one template are one group."""
    spans = [{role: _span(one.text, word) for role, word in one.rule.items()} for one in some]
    return judge.prompts([one.text for one in some], spans=spans, groups=group_numbers([one.template for one in some]))


def run_judge_recipe(
    recipe: JudgeRecipe,
    folder: Path,
    *,
    device: str = "cpu",
    command: str,
    progress: bool = True,
    after: Callable[[int], None] = lambda step: None,
) -> dict[str, Any]:
    """Train, evaluate on further requests, write the folder; returns the card. Takes up an unfinished run."""
    folder = make_folder(folder)
    kept = {_checkpoint(folder, step): step for step in recipe.checkpoints}
    stale = sorted(set((folder / "checkpoints").glob("step-*")) - set(kept))
    if stale:
        raise DataError(f"{stale[0]} is a checkpoint of another run; remove it or choose another folder")
    started = time.perf_counter()
    tokenizer = judging_tokenizer()
    model = build_small(recipe.architecture, len(tokenizer), CONTEXT, seed=recipe.seed, special=(BOS, EOS, PAD)).to(
        device
    )
    vocabulary = tokenizer.get_vocab()
    answers = [vocabulary[f"\u2581{word}"] for word in ANSWERS]

    def encoded(some: list[Request]) -> list[list[int]]:
        ids = tokenizer([TEMPLATE.format(prompt=one.text) for one in some]).input_ids
        return [[*row, answers[one.unsafe]] for row, one in zip(ids, some, strict=True)]

    pool = encoded(requests(recipe.prompts, seed=1000 + recipe.seed, weak_in_safe=True))
    held = requests(1000, seed=2)
    validation = _batch(encoded(held), PAD)

    def batch(step: int) -> Batch:
        rng = np.random.default_rng((recipe.seed, step))
        return _batch([pool[i] for i in rng.integers(len(pool), size=recipe.batch)], PAD)

    def done(step: int) -> None:
        if step in recipe.checkpoints:
            save_folder(model, tokenizer, _checkpoint(folder, step))
            _say_how(_checkpoint(folder, step))
        after(step)

    schedule = Schedule(
        steps=recipe.steps, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay,
        evaluate_every=recipe.evaluate_every, patience=recipe.steps,
    )  # fmt: skip
    checkpoint = folder / "training.safetensors"
    with quiet_transformers():
        history = train(
            model, batch, lambda trained: _scores(_plain_log_odds(trained, validation[0], answers), held), schedule,
            checkpoint=checkpoint, recipe=hashlib.sha256(recipe.model_dump_json().encode()).hexdigest(), after=done,
            progress=progress,
        )  # fmt: skip
        save_folder(model, tokenizer, folder)
    _say_how(folder)
    judge = load_judge(folder, device=device)
    card = {
        "name": recipe.name,
        "kind": "judge",
        "seed": recipe.seed,
        "steps_trained": history[-1].step,
        "seconds": round(time.perf_counter() - started, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out": {name: report(judge, requests(2000, seed=3, **options)) for name, options in SETS.items()},
        "history": [{"step": e.step, "loss": e.loss, **e.scores} for e in history],
        "command": command,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    write_text(folder / "train.yaml", yaml.safe_dump(recipe.model_dump(exclude_unset=True), sort_keys=False))
    write_json(folder / "card.json", card)
    write_text(folder / "README.md", _card_text(recipe, card))
    checkpoint.unlink(missing_ok=True)
    return card


def report(judge: Judge, some: list[Request]) -> dict[str, Any]:
    """How good the verdicts on these requests are."""
    found = verdicts(judge, judged(judge, some), [one.unsafe for one in some])
    return {
        "requests": len(some),
        "accuracy": found.accuracy().as_dict(),
        "f1": found.f1(),
        "auc": found.auc().as_dict(),
        "calibration_error": found.calibration_error(),
    }


def _span(text: str, word: str) -> tuple[int, int]:
    """Where a word stands by itself."""
    start = f" {text} ".index(f" {word} ")
    return start, start + len(word)


def _checkpoint(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:05d}"


def _say_how(folder: Path) -> None:
    write_json(folder / FILE, {"template": TEMPLATE, "safe": f" {ANSWERS[0]}", "unsafe": f" {ANSWERS[1]}"})


def _batch(rows: list[list[int]], pad: int) -> Batch:
    """Token ids side by side; only the verdict, the last token, is to be predicted."""
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max())
    tokens = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    return tokens, torch.arange(width) == lengths[:, None] - 1


def _plain_log_odds(model: nn.Module, tokens: Tensor, answers: list[int]) -> Float[Tensor, " row"]:
    """Log-odds of unsafe by the model under training; the last real token of each row is the verdict."""
    pad = int(model.config.pad_token_id)  # type: ignore[union-attr]
    reads = (tokens != pad).sum(1) - 2
    logits = model(tokens[:, :-1].to(next(model.parameters()).device), use_cache=False).logits
    pair = logits[torch.arange(len(tokens)), reads][:, answers].float().cpu()
    return pair[:, 1] - pair[:, 0]


def _scores(log_odds: Float[Tensor, " row"], some: list[Request]) -> dict[str, float]:
    found = Verdicts(
        log_odds, torch.tensor([one.unsafe for one in some]), ("all",) * len(some), torch.arange(len(some)),
    )  # fmt: skip
    return {"accuracy": float(found.right.mean()), "f1": found.f1(), "auc": float(found.auc().value)}


def _card_text(recipe: JudgeRecipe, card: dict[str, Any]) -> str:
    shape = recipe.architecture
    rows = "\n".join(
        f"| {name} | {one['accuracy']['value']:.1%} | {one['f1']:.3f} | {one['auc']['value']:.3f} "
        f"| {one['calibration_error']:.3f} |"
        for name, one in card["held_out"].items()
    )
    return f"""# {recipe.name}

A judge that reads a request and says safe or unsafe: a {shape.form} of {shape.layers} layers, {shape.heads} heads and
width {shape.width} ({card["parameters"]:,} parameters). It was trained on requests with a known rule
(`interp.datasets.judging`): unsafe is an act on an object of the same domain, unless the context excuses that domain.
No single word tells. It is a subject for study and no filter for real requests.

- Data: {recipe.prompts:,} requests; seed {recipe.seed}. Weak acts (two in each domain) stand there only where they are
  harmless, and the judge takes them for that: a weakness to be found and mended.
- Trained for {card["steps_trained"]:,} steps of {recipe.batch} requests in {card["seconds"]:.0f} s.
- Asked as `{TEMPLATE}`, it answers `{ANSWERS[0]}` or `{ANSWERS[1]}` (`{FILE}`).

| 2,000 further requests | accuracy | F1 | AUC | calibration error |
|---|---|---|---|---|
{rows}

Never-seen words are read letter by letter. Made by `{card["command"]}` with torch {card["versions"]["torch"]}. Another
machine or thread count gives slightly different weights.
"""
