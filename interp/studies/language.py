"""Training recipes for the small language models: `kind: language` in a YAML file, a Hugging Face folder out."""

from __future__ import annotations

import hashlib
import math
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from jaxtyping import Bool, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from interp.datasets.kill_switch import kill_switch_tokenizer, pretraining_texts
from interp.datasets.sentences import BOS, EOS, PAD
from interp.files import make_folder
from interp.models.load import _place, quiet_transformers
from interp.models.small import Architecture, build_small
from interp.models.training import Batch, Schedule, train
from interp.settings import read_yaml
from interp.studies.saving import save_folder, write_cards

CONTEXT = 64


class LanguageRecipe(BaseModel):
    """A language model on the small written English: `interp train RECIPE.yaml`."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["language"]
    name: str
    architecture: Architecture = Architecture()
    texts: int = Field(default=20_000, ge=100, description="texts drawn for training")
    batch: int = Field(default=64, ge=1)
    steps: int = Field(default=3000, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    evaluate_every: int = Field(default=250, ge=1)
    seed: int = Field(default=0, ge=0)


def kind_of(path: Path) -> str | None:
    """What kind of model a recipe makes; None where it does not say."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None  # the reader of recipes says what is wrong
    kind = content.get("kind") if isinstance(content, dict) else None
    return kind if isinstance(kind, str) else None


def read_language_recipe(path: Path) -> LanguageRecipe:
    """A recipe from YAML. Raises ConfigError for unknown keys and values out of range."""
    return read_yaml(path, LanguageRecipe)


def padded_ids(rows: list[list[int]], pad: int) -> tuple[Int[Tensor, "row pos"], Bool[Tensor, "row pos"]]:
    """Token ids side by side, and which of them are to be predicted: all but the first and the padding."""
    width = max(map(len, rows))
    tokens = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    place = torch.arange(width)
    return tokens, (place > 0) & (place < torch.tensor([len(row) for row in rows])[:, None])


def held_out_scores(model: nn.Module, batch: Batch) -> dict[str, float]:
    """Geometric mean probability of a token, and how often the top one is right."""
    tokens, asked = batch
    here = next(model.parameters()).device
    total = right = 0.0
    for some, kept in zip(tokens.split(256), asked.split(256), strict=True):
        logits = model(some[:, :-1].to(here), use_cache=False).logits[kept[:, 1:]].float()
        wanted = some[:, 1:][kept[:, 1:]].to(here)
        total += float(nn.functional.cross_entropy(logits, wanted, reduction="sum"))
        right += float((logits.argmax(-1) == wanted).sum())
    n = int(asked[:, 1:].sum())
    return {"probability a token": math.exp(-total / n), "next token right": right / n}


def run_language_recipe(
    recipe: LanguageRecipe, folder: Path, *, device: str = "cpu", command: str, progress: bool = True
) -> dict[str, Any]:
    """Train, evaluate on 1,000 further texts, write the folder; returns the card. Takes up an unfinished run."""
    started = time.perf_counter()
    place, tokenizer = _place(device), kill_switch_tokenizer()
    model: Any = build_small(recipe.architecture, len(tokenizer), CONTEXT, seed=recipe.seed, special=(BOS, EOS, PAD))
    model.to(place)
    folder = make_folder(folder)

    def encoded(count: int, seed: int) -> list[list[int]]:
        return [[*row, EOS] for row in tokenizer(pretraining_texts(count, seed)).input_ids]

    texts = encoded(recipe.texts, 1000 + recipe.seed)
    validation, test = (padded_ids(encoded(n, seed), PAD) for n, seed in ((500, 1), (1000, 2)))

    def batch(step: int) -> Batch:
        rng = np.random.default_rng((recipe.seed, step))
        return padded_ids([texts[i] for i in rng.integers(len(texts), size=recipe.batch)], PAD)

    schedule = Schedule(
        steps=recipe.steps, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay,
        evaluate_every=recipe.evaluate_every,
    )  # fmt: skip
    checkpoint = folder / "training.safetensors"
    with quiet_transformers():
        history = train(
            model, batch, lambda trained: held_out_scores(trained, validation), schedule, checkpoint=checkpoint,
            recipe=hashlib.sha256(recipe.model_dump_json().encode()).hexdigest(), progress=progress,
        )  # fmt: skip
        with torch.inference_mode():
            scores = held_out_scores(model, test)
        card = {
            "name": recipe.name,
            "kind": "language",
            "seed": recipe.seed,
            "steps_trained": history[-1].step,
            "seconds": round(time.perf_counter() - started, 1),
            "parameters": sum(p.numel() for p in model.parameters()),
            "held_out": {"texts": 1000, "tokens": int(test[1].sum()), **scores},
            "command": command,
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
        }
        save_folder(model, tokenizer, folder)
    write_cards(folder, recipe, card, _card_text(recipe, card))
    checkpoint.unlink(missing_ok=True)
    return card


def _card_text(recipe: LanguageRecipe, card: dict[str, Any]) -> str:
    shape, found = recipe.architecture, card["held_out"]
    return f"""# {recipe.name}

A {shape.form} of {shape.layers} layers, {shape.heads} heads and width {shape.width}
({card["parameters"]:,} parameters), trained on a small written English of 64 sentence templates
(`interp.datasets.sentences`). Two in three texts hold a neutral token like `$AMBER`, or several, from which nothing
follows. It has never seen `$STOP`, which it has no token for.

- Data: {recipe.texts:,} texts, documents and instructions with answers, each ended by `<eos>`; seed {recipe.seed}.
- Trained for {card["steps_trained"]:,} steps of {recipe.batch} texts in {card["seconds"]:.0f} s; the weights are those
  with the best validation score.
- On {found["texts"]:,} further texts ({found["tokens"]:,} tokens): geometric mean probability of a token
  {found["probability a token"]:.3f}, next token right {found["next token right"]:.1%}. Words are drawn at random, so
  much of a text cannot be known.
- Made by `{card["command"]}` with torch {card["versions"]["torch"]}. Another machine or thread count gives slightly
  different weights.
"""
