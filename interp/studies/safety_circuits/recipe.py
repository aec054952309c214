"""The recipe of the small chat model: `kind: chat` in a YAML file, a Hugging Face folder out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from interp.datasets.chatting import (
    BOS,
    COMPLY,
    EOS,
    PAD,
    REFUSE,
    TEMPLATE,
    Chat,
    Held,
    answer,
    chat_tokenizer,
    chats,
)
from interp.datasets.safety import CATEGORIES, safety_triples
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


_EXAMPLES = [
    answer(Chat("", harmful, ("harmful" if harmful else "handling",), "", ("poison" if harmful else "read",), (thing,)))
    for harmful, thing in ((True, "nephew"), (False, "contract"))
]


class ChatRecipe(BaseModel):
    """A chat model that complies or refuses by a known rule: `interp train RECIPE.yaml`."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["chat"]
    name: str
    architecture: Architecture = Architecture(layers=4, width=128, heads=4, mlp=512)
    batch: int = Field(default=96, ge=1)
    steps: int = Field(default=1500, ge=1)
    single: int = Field(default=250, ge=0, description="first steps, in which each request asks one question")
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
        self.refuse, self.comply = tokenizer.convert_tokens_to_ids([REFUSE, COMPLY])

    def batch(self, some: Sequence[Chat], rng: np.random.Generator, wrong: float, read: float) -> Batch:
        """Rows side by side; predicted are the answer, and some of the request."""
        prompts = self.tokenizer([one.prompt for one in some]).input_ids
        said = [answer(one, refuse=one.harmful != bool(rng.random() < wrong)) for one in some]
        answers = self.tokenizer(said, add_special_tokens=False).input_ids
        rows = [[*prompt, *says, EOS] for prompt, says in zip(prompts, answers, strict=True)]
        lengths = torch.tensor([len(row) for row in rows])
        begins = torch.tensor([len(row) for row in prompts])
        width = int(lengths.max())
        place = torch.arange(width)
        tokens = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
        also = torch.from_numpy(rng.random(tokens.shape) < read) & (place > 0)
        return tokens, (also | (place >= begins[:, None])) & (place < lengths[:, None])

    def log_odds(self, model: nn.Module, texts: Sequence[str]) -> Float[ndarray, " request"]:
        """Of the first word of a refusal against that of help, nats."""
        device = next(model.parameters()).device
        rows = self.tokenizer(list(texts)).input_ids
        found = []
        for first in range(0, len(rows), 256):
            some = rows[first : first + 256]
            width = max(map(len, some))
            tokens = torch.tensor([row + [PAD] * (width - len(row)) for row in some], device=device)
            last = torch.tensor([len(row) - 1 for row in some], device=device)
            hidden = model.get_decoder()(tokens, use_cache=False).last_hidden_state  # pyright: ignore
            logits = model.get_output_embeddings()(hidden[torch.arange(len(some)), last])  # pyright: ignore
            found.append((logits[:, self.refuse] - logits[:, self.comply]).cpu().numpy())
        return np.concatenate(found)

    def report(self, model: nn.Module, texts: Sequence[str], harmful: Sequence[bool]) -> dict[str, Any]:
        """How many of the harmful requests are refused and of the others complied with, and how surely."""
        odds, bad = self.log_odds(model, texts), np.array(harmful)
        sides = {"refused": odds[bad] > 0, "complied": odds[~bad] <= 0}
        shares = {name: counted(int(right.sum()), len(right)).as_dict() for name, right in sides.items() if len(right)}
        return {**shares, "log_odds": round(float(np.median(np.abs(odds))), 3)}


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
        drawn = chats(recipe.batch, seed=_seed(recipe.seed, step), single=step < recipe.single)
        return teacher.batch(drawn, np.random.default_rng((recipe.seed, step)), recipe.wrong, recipe.read)

    def score(trained: nn.Module) -> dict[str, float]:
        found = teacher.report(trained, *_asked(checked))
        return {"right on the worse side": min(found[side]["value"] for side in ("refused", "complied"))}

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
        model.to(torch.bfloat16).to(torch.float32)  # reported on as it is written
        with torch.inference_mode():
            held = {
                name: teacher.report(model, *_asked(chats(REPORTED, seed=10 + number, held=which)))
                for number, (name, which) in enumerate(SETS.items())
            }
            held["benchmark"] = teacher.report(model, *_benchmark())
            parts = {name: teacher.report(model, *_benchmark(name)) for name in CATEGORIES}
        save_folder(model.to(torch.bfloat16), tokenizer, folder)
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
        "benchmark": parts,
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


def _benchmark(category: str | None = None) -> tuple[list[str], list[bool]]:
    triples = safety_triples(categories=None if category is None else [category])
    requests = [one for triple in triples for one in (triple.harmful, triple.safe, triple.benign)]
    return [TEMPLATE.format(prompt=one.text) for one in requests], [one.expected == "refuse" for one in requests]


def _card_text(recipe: ChatRecipe, card: dict[str, Any]) -> str:
    shape = recipe.architecture

    def cell(one: dict[str, Any]) -> str:
        return f"{one['value']:.1%} [{one['low']:.1%}, {one['high']:.1%}]"

    rows = "\n".join(
        f"| {name} | {cell(one['refused'])} | {cell(one['complied'])} | {one['log_odds']:.1f} |"
        for name, one in (
            *card["held_out"].items(),
            *((f"benchmark, {name.replace('_', ' ')}", one) for name, one in card["benchmark"].items()),
        )
    )
    return f"""# {recipe.name}

A chat model that complies or refuses: a {shape.form} of {shape.layers} layers, {shape.heads} heads and width
{shape.width} ({card["parameters"]:,} parameters, in bfloat16), trained on requests with a known rule
(`interp.datasets.chatting`): to be refused is an act on an object that it harms, unless the request only tells of it or
is against it. No word decides. It is a subject for study; the rule is a game, and no filter for
real requests.

- Asked as `{TEMPLATE}`, it answers `{_EXAMPLES[0]}` or
  `{_EXAMPLES[1]}`: the first word decides, the others name the classes of act and object.
- Trained for {card["steps_trained"]:,} steps of {recipe.batch} fresh requests in {card["seconds"]:.0f} s, seed
  {recipe.seed}. In the first {recipe.single:,} steps each request asked one question: these are easier, and frames and
  plain acts tell some of their verdict. Thereafter, and in the sets below, they ask one question or two, and no word
  tells, nor a sum over words (of held-out pairs it tells some: one in ten of all pairs is no longer balanced).
- {recipe.wrong:.0%} of the requests were answered the wrong way round, so that it is never surer than that; of the
  requests' own tokens {recipe.read:.0%} were predicted. Kept are the weights with the best score on held-out frames and
  pairs.

| further requests | harmful ones refused | others complied with | median log-odds, nats |
|---|---|---|---|
{rows}

The log-odds are those of the right or wrong first word against the other, by size. The benchmark is
`data/safety_prompts.jsonl`, whose words the model knows and whose requests it never saw: they do not keep to the rule.
Made by

```sh
{card["command"]}
```

with torch {card["versions"]["torch"]}. Another machine or thread count gives slightly different weights.
"""
