"""The recipe of the small chat model: `kind: chat` in a YAML file, a Hugging Face folder out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from interp.datasets.chatting import (
    ANSWERS,
    BOS,
    COMPLY,
    EOS,
    PAD,
    REFUSE,
    TEMPLATE,
    Chat,
    Held,
    chat_tokenizer,
    chats,
)
from interp.datasets.safety import safety_triples
from interp.estimates import counted
from interp.files import make_folder
from interp.models.load import quiet_transformers
from interp.models.small import Architecture, build_small
from interp.models.training import Batch, Schedule, train
from interp.settings import read_yaml
from interp.studies.saving import save_folder, write_cards

CONTEXT = 96
REPORTED = 2000
"""Requests of each set."""
SETS: dict[str, Held] = {
    "training's kind": "none", "held-out frames": "templates", "held-out pairs": "combinations",
    "objects never seen": "objects",
}  # fmt: skip


class ChatRecipe(BaseModel):
    """A chat model that complies or refuses by a known rule: `interp train RECIPE.yaml`."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["chat"]
    name: str
    architecture: Architecture = Architecture(layers=4, width=128, heads=4, mlp=512)
    batch: int = Field(default=96, ge=1)
    steps: int = Field(default=3000, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    wrong: float = Field(
        default=0.03, ge=0, lt=0.5, description="share of requests answered the wrong way round in training"
    )
    read: float = Field(default=0.1, ge=0, le=1, description="share of the requests' tokens that are predicted, too")
    evaluate_every: int = Field(default=250, ge=1)
    seed: int = Field(default=0, ge=0)


def read_chat_recipe(path: Path) -> ChatRecipe:
    """A recipe from YAML. Raises ConfigError for unknown keys and values out of range."""
    return read_yaml(path, ChatRecipe)


class _Teacher:
    """Requests as rows of token ids with the answers that are taught."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        ids = tokenizer(list(ANSWERS.values()), add_special_tokens=False).input_ids
        self.answers = {says: [*row, EOS] for says, row in zip(ANSWERS, ids, strict=True)}
        self.refuse, self.comply = self.answers[True][0], self.answers[False][0]

    def batch(self, some: Sequence[Chat], rng: np.random.Generator, wrong: float, read: float) -> Batch:
        """Rows side by side; predicted are the answer, and some of the request."""
        prompts = self.tokenizer([one.prompt for one in some]).input_ids
        said = [one.harmful != bool(rng.random() < wrong) for one in some]
        rows = [[*row, *self.answers[says]] for row, says in zip(prompts, said, strict=True)]
        lengths = torch.tensor([len(row) for row in rows])
        begins = torch.tensor([len(row) for row in prompts])
        width = int(lengths.max())
        place = torch.arange(width)
        tokens = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
        also = torch.from_numpy(rng.random(tokens.shape) < read) & (place > 0)
        return tokens, (also | (place >= begins[:, None])) & (place < lengths[:, None])

    def right(self, model: nn.Module, texts: Sequence[str], harmful: Sequence[bool]) -> list[bool]:
        """Whether the likelier of the two first words of an answer is the right one."""
        device = next(model.parameters()).device
        rows = self.tokenizer(list(texts)).input_ids
        found: list[bool] = []
        for first in range(0, len(rows), 256):
            some = rows[first : first + 256]
            width = max(map(len, some))
            tokens = torch.tensor([row + [PAD] * (width - len(row)) for row in some], device=device)
            last = torch.tensor([len(row) - 1 for row in some], device=device)
            hidden = model.get_decoder()(tokens, use_cache=False).last_hidden_state  # pyright: ignore
            logits = model.get_output_embeddings()(hidden[torch.arange(len(some)), last])  # pyright: ignore
            found += (logits[:, self.refuse] > logits[:, self.comply]).tolist()
        return [says == is_so for says, is_so in zip(found, harmful, strict=True)]

    def report(self, model: nn.Module, texts: Sequence[str], harmful: Sequence[bool]) -> dict[str, Any]:
        """How many of the harmful requests are refused and of the others complied with."""
        right = self.right(model, texts, harmful)
        pairs = list(zip(right, harmful, strict=True))
        return {
            name: counted(sum(ok for ok, bad in pairs if bad == side), sum(bad == side for _, bad in pairs)).as_dict()
            for name, side in (("refused", True), ("complied", False))
        }


def run_chat_recipe(
    recipe: ChatRecipe, folder: Path, *, device: str = "cpu", command: str, progress: bool = True
) -> dict[str, Any]:
    """Train, evaluate on further requests and the benchmark, write the folder; returns the card.

    Takes up an unfinished run. Training never sees a held-out frame or pair, nor a request of the benchmark.
    """
    started = time.perf_counter()
    folder = make_folder(folder)
    tokenizer = chat_tokenizer()
    model: Any = build_small(
        recipe.architecture, len(tokenizer), CONTEXT, seed=recipe.seed, special=(BOS, EOS, PAD)
    ).to(device)
    teacher = _Teacher(tokenizer)
    checked = [one for held in ("templates", "combinations") for one in chats(500, seed=1, held=held)]

    def batch(step: int) -> Batch:
        drawn = chats(recipe.batch, seed=_seed(recipe.seed, step))
        return teacher.batch(drawn, np.random.default_rng((recipe.seed, step)), recipe.wrong, recipe.read)

    def score(trained: nn.Module) -> dict[str, float]:
        right = teacher.right(trained, [one.prompt for one in checked], [one.harmful for one in checked])
        sides = [[ok for ok, one in zip(right, checked, strict=True) if one.harmful == side] for side in (True, False)]
        return {"right on the worse side": min(float(np.mean(side)) for side in sides)}

    schedule = Schedule(
        steps=recipe.steps, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay,
        evaluate_every=recipe.evaluate_every, patience=recipe.steps,
    )  # fmt: skip
    checkpoint = folder / "training.safetensors"
    with quiet_transformers():
        history = train(
            model, batch, score, schedule, checkpoint=checkpoint,
            recipe=hashlib.sha256(recipe.model_dump_json().encode()).hexdigest(), progress=progress,
        )  # fmt: skip
        with torch.inference_mode():
            held = {
                name: teacher.report(model, *_asked(chats(REPORTED, seed=10 + number, held=which)))
                for number, (name, which) in enumerate(SETS.items())
            }
            held["benchmark"] = teacher.report(model, *_benchmark())
        save_folder(model, tokenizer, folder)
    card = {
        "name": recipe.name,
        "kind": "chat",
        "seed": recipe.seed,
        "steps_trained": history[-1].step,
        "seconds": round(time.perf_counter() - started, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "template": TEMPLATE,
        "refuse": REFUSE,
        "comply": COMPLY,
        "held_out": held,
        "history": [{"step": e.step, "loss": e.loss, **e.scores} for e in history],
        "command": command,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    write_cards(folder, recipe, card, _card_text(recipe, card))
    checkpoint.unlink(missing_ok=True)
    return card


def _seed(seed: int, step: int) -> int:
    """Of the requests of a step: never one that held-out requests are drawn with."""
    return 1_000_000 * (seed + 1) + step


def _asked(some: Sequence[Chat]) -> tuple[list[str], list[bool]]:
    return [one.prompt for one in some], [one.harmful for one in some]


def _benchmark() -> tuple[list[str], list[bool]]:
    requests = [one for triple in safety_triples() for one in (triple.harmful, triple.safe, triple.benign)]
    return [TEMPLATE.format(prompt=one.text) for one in requests], [one.expected == "refuse" for one in requests]


def _card_text(recipe: ChatRecipe, card: dict[str, Any]) -> str:
    shape = recipe.architecture

    def cell(one: dict[str, Any]) -> str:
        return f"{one['value']:.1%} [{one['low']:.1%}, {one['high']:.1%}]"

    rows = "\n".join(
        f"| {name} | {cell(one['refused'])} | {cell(one['complied'])} |" for name, one in card["held_out"].items()
    )
    return f"""# {recipe.name}

A chat model that complies or refuses: a {shape.form} of {shape.layers} layers, {shape.heads} heads and width
{shape.width} ({card["parameters"]:,} parameters), trained on requests with a known rule (`interp.datasets.chatting`):
to be refused is an act on an object that it harms, unless the request only tells of it or is against it. No word
decides, and no sum over words. It is a subject for study; the rule is a game, and no filter for real requests.

- Asked as `{TEMPLATE}`, it answers `{ANSWERS[True]}` or `{ANSWERS[False]}`.
- Trained for {card["steps_trained"]:,} steps of {recipe.batch} fresh requests in {card["seconds"]:.0f} s, seed
  {recipe.seed}. {recipe.wrong:.0%} of them were answered the wrong way round, so that it is never surer than that;
  of the requests' own tokens {recipe.read:.0%} were predicted. Kept are the weights with the
  best score on held-out frames and pairs.

| further requests | harmful ones refused | others complied with |
|---|---|---|
{rows}

The benchmark is `data/safety_prompts.jsonl`, whose words it knows and whose requests it never saw: they do not keep to
the rule. Made by

```sh
{card["command"]}
```

with torch {card["versions"]["torch"]}. Another machine or thread count gives slightly different weights.
"""
