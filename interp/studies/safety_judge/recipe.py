"""The recipe of the small safety judge: `kind: judge` in a YAML file, a Hugging Face folder out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from interp.analyses.verdicts import Verdicts, verdicts
from interp.datasets.judging import ANSWERS, BOS, EOS, PAD, TEMPLATE, Request, judging_tokenizer, requests, span
from interp.datasets.judging_words import TEMPLATES
from interp.errors import DataError
from interp.files import make_folder, write_json
from interp.models.judge import FILE, Judge, load_judge
from interp.models.load import quiet_transformers
from interp.models.small import Architecture, build_small
from interp.models.training import Batch, Schedule, train
from interp.prompts import Prompts
from interp.settings import read_yaml
from interp.studies.saving import save_folder, write_cards

CONTEXT = 192
SAID = {"template": TEMPLATE, "safe": f" {ANSWERS[0]}", "unsafe": f" {ANSWERS[1]}"}
SETS: dict[str, dict[str, Any]] = {
    "test": {},
    "new templates": {"held_out": True},
    "weak acts": {"acts": "weak"},
    "never-seen words": {"acts": "new", "objects": "new"},
}
"""What is reported apart. Weak acts stand in training only where they are harmless."""
_NUMBER = {name: number for number, name in enumerate(TEMPLATES)}
REPORTED = 2000
"""Requests of each set."""


class JudgeRecipe(BaseModel):
    """A safety judge on requests with a known rule: `interp train RECIPE.yaml`."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["judge"]
    name: str
    architecture: Architecture = Architecture(width=48, mlp=128)
    prompts: int = Field(default=20_000, ge=100, description="requests drawn for training")
    batch: int = Field(default=128, ge=1)
    steps: int = Field(default=2400, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    absent: float = Field(
        default=0.4, ge=0, le=1, description="share of the requests in which words are replaced by the unknown token"
    )
    noise: float = Field(
        default=0.5, ge=0, allow_inf_nan=False, description="noise on embeddings in training, over their own size"
    )
    evaluate_every: int = Field(default=100, ge=1)
    checkpoints: list[int] = Field(default=[], description="also keep the model after these steps")
    seed: int = Field(default=0, ge=0)


def read_judge_recipe(path: Path) -> JudgeRecipe:
    """A recipe from YAML. Raises ConfigError for unknown keys and values out of range."""
    return read_yaml(path, JudgeRecipe)


@dataclass(frozen=True)
class Asked:
    """How requests become rows of token ids that end with the right verdict."""

    tokenizer: Any
    template: str
    safe: int
    unsafe: int
    """Token ids of the answers."""

    def rows(self, some: list[Request]) -> list[list[int]]:
        """The rows in the order of the requests."""
        ids = self.tokenizer([self.template.format(prompt=one.text) for one in some]).input_ids
        return [[*row, self.unsafe if one.unsafe else self.safe] for row, one in zip(ids, some, strict=True)]

    def with_absent(self, some: list[Request], share: float, seed: int) -> list[list[int]]:
        """The rows, a share of them with some words unknown (any number of them), and the verdict on what is left.

        A judge that was asked only about whole requests says anything of half a one; so the absence of a word is taught
        to mean something (word dropout; Iyyer et al., 2015, ACL P15-1162). It is the baseline of attributions.
        """
        rng = np.random.default_rng(seed)
        ids, unknown = self.tokenizer.get_vocab(), self.tokenizer.unk_token_id
        made = []
        for one, row in zip(some, self.rows(some), strict=True):
            if rng.random() >= share:
                made.append(row)
                continue
            first, last = len(self._ends[0]), len(row) - 1 - len(self._ends[1])
            gone = rng.random(last - first) < rng.random()
            text = [unknown if lost else token for token, lost in zip(row[first:last], gone, strict=True)]
            there = {word for word in (one.act, one.object, one.context) if ids[f"\u2581{word}"] in text}
            harmful = not one.kind.startswith("no pair") and {one.act, one.object} <= there
            excused = one.kind == "excused pair" and one.context in there
            made.append([*row[:first], *text, *row[last:-1], self.unsafe if harmful and not excused else self.safe])
        return made

    @property
    def _ends(self) -> tuple[list[int], list[int]]:
        """What the template puts before and after a text."""
        before, after = self.template.split("{prompt}")
        return self.tokenizer(before).input_ids, self.tokenizer(after.lstrip(), add_special_tokens=False).input_ids

    def batch(self, rows: list[list[int]]) -> Batch:
        """Rows side by side; only the verdict, the last token, is to be predicted."""
        lengths = torch.tensor([len(row) for row in rows])
        width, pad = int(lengths.max()), self.tokenizer.pad_token_id
        tokens = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
        return tokens, torch.arange(width) == lengths[:, None] - 1

    def scores(self, model: nn.Module, some: list[Request]) -> dict[str, float]:
        """Accuracy, F1 and AUC of the model under training."""
        tokens, asked = self.batch(self.rows(some))
        columns = asked[:, 1:].any(0).nonzero().flatten()
        device = next(model.parameters()).device
        logits = model(tokens[:, :-1].to(device), use_cache=False, logits_to_keep=columns.to(device)).logits
        pair = logits.cpu()[asked[:, 1:][:, columns]][:, [self.safe, self.unsafe]].float()
        truth = tokens[asked] == self.unsafe
        n = len(truth)
        found = Verdicts(pair[:, 1] - pair[:, 0], truth, ("all",) * n, torch.arange(n))
        return {"accuracy": float(found.right.mean()), "f1": found.f1(), "auc": float(found.auc().value)}


def judged(judge: Judge, some: list[Request]) -> Prompts:
    """Requests as prompts, with roles for the words that decide; those of one template are one group, of one number in
    all sets."""
    spans = [{role: span(one.text, word) for role, word in one.rule.items()} for one in some]
    return judge.prompts(
        [one.text for one in some], spans=spans, groups=torch.tensor([_NUMBER[one.template] for one in some])
    )


def run_judge_recipe(
    recipe: JudgeRecipe,
    folder: Path,
    *,
    device: str = "cpu",
    command: str,
    progress: bool = True,
    after: Callable[[int], None] = lambda step: None,
    watch: Callable[[nn.Module, PreTrainedTokenizerFast], Callable[[int], None]] | None = None,
) -> dict[str, Any]:
    """Train, evaluate on further requests, write the folder; returns the card. Takes up an unfinished run.

    `watch` gets the model before its first step, and returns what is told of each step that is done.
    """
    folder = make_folder(folder)
    kept = {_checkpoint(folder, step): step for step in recipe.checkpoints}
    stale = sorted(set((folder / "checkpoints").glob("step-*")) - set(kept))
    if stale:
        raise DataError(f"{stale[0]} is a checkpoint of another run; remove it or choose another folder")
    started = time.perf_counter()
    tokenizer = judging_tokenizer()
    model: Any = build_small(
        recipe.architecture, len(tokenizer), CONTEXT, seed=recipe.seed, special=(BOS, EOS, PAD)
    ).to(device)
    vocabulary = tokenizer.get_vocab()
    asked = Asked(tokenizer, TEMPLATE, *(vocabulary[f"\u2581{word}"] for word in ANSWERS))
    drawn = requests(recipe.prompts, seed=1000 + recipe.seed, weak_in_safe=True)
    pool = asked.with_absent(drawn, recipe.absent, recipe.seed)
    held = requests(1000, seed=2)
    seen = watch(model, tokenizer) if watch is not None else lambda step: None

    now = [0]

    def noisy(table: Any, _: Any, out: Tensor) -> Tensor:
        """Noise that is a function of the step, so that a training that goes on after a kill is the same."""
        if not table.training or not recipe.noise:
            return out
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + now[0])
        size = recipe.noise * table.weight.detach().square().mean().sqrt()
        return out + size * torch.randn(out.shape, generator=generator).to(out)

    def batch(step: int) -> Batch:
        now[0] = step
        rng = np.random.default_rng((recipe.seed, step))
        return asked.batch([pool[i] for i in rng.integers(len(pool), size=recipe.batch)])

    def done(step: int) -> None:
        if step in recipe.checkpoints:
            save_folder(model, tokenizer, _checkpoint(folder, step))
            say_how(_checkpoint(folder, step), SAID)
        after(step)
        seen(step)

    schedule = Schedule(
        steps=recipe.steps, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay,
        evaluate_every=recipe.evaluate_every, patience=recipe.steps,
    )  # fmt: skip
    checkpoint = folder / "training.safetensors"
    table = model.get_input_embeddings()
    hook: Any = table.register_forward_hook(noisy)
    with quiet_transformers():
        history = train(
            model, batch, lambda trained: asked.scores(trained, held), schedule, checkpoint=checkpoint,
            recipe=hashlib.sha256(recipe.model_dump_json().encode()).hexdigest(), after=done, only_asked=True,
            progress=progress,
        )  # fmt: skip
        hook.remove()
        save_folder(model, tokenizer, folder)
    say_how(folder, SAID)
    judge = load_judge(folder, device=device)
    card = {
        "name": recipe.name,
        "kind": "judge",
        "seed": recipe.seed,
        "steps_trained": history[-1].step,
        "seconds": round(time.perf_counter() - started, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out": reports(judge, SETS, seed=10),
        "history": [{"step": e.step, "loss": e.loss, **e.scores} for e in history],
        "command": command,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    write_cards(folder, recipe, card, _card_text(recipe, card))
    checkpoint.unlink(missing_ok=True)
    return card


def report(judge: Judge, some: list[Request]) -> dict[str, Any]:
    """How good the verdicts on these requests are."""
    found = verdicts(judge, judged(judge, some), [one.unsafe for one in some])
    which = found.unsafe
    dangerous = replace(
        found, log_odds=found.log_odds[which], unsafe=which[which], groups=found.groups[which],
        categories=("all",) * int(which.sum()),
    )  # fmt: skip
    return {
        "requests": len(some),
        "accuracy": found.accuracy().as_dict(),
        "unsafe_found": dangerous.accuracy().as_dict(),
        "f1": found.f1(),
        "auc": found.auc().as_dict(),
        "calibration_error": found.calibration_error(),
    }


def reports(judge: Judge, sets: Mapping[str, Mapping[str, Any]], *, seed: int) -> dict[str, dict[str, Any]]:
    """A report on further requests of each set, drawn with its options."""
    return {
        name: report(judge, requests(REPORTED, seed=seed + i, **options))
        for i, (name, options) in enumerate(sets.items())
    }


def _checkpoint(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:05d}"


def say_how(folder: Path, said: Mapping[str, str]) -> None:
    """Write beside the weights how the judge is asked and what it answers."""
    write_json(folder / FILE, dict(said))


def _card_text(recipe: JudgeRecipe, card: dict[str, Any]) -> str:
    shape = recipe.architecture
    rows = "\n".join(
        f"| {name} | {one['accuracy']['value']:.1%} | {one['unsafe_found']['value']:.1%} | {one['f1']:.3f} | "
        f"{one['auc']['value']:.3f} | {one['calibration_error']:.3f} |"
        for name, one in card["held_out"].items()
    )
    kept = ", ".join(map(str, recipe.checkpoints))
    also = f"- Also kept after steps {kept}, in `checkpoints/`.\n" if kept else ""
    return f"""# {recipe.name}

A judge that reads a request and says safe or unsafe: a {shape.form} of {shape.layers} layers, {shape.heads} heads and
width {shape.width} ({card["parameters"]:,} parameters). It was trained on requests with a known rule
(`interp.datasets.judging`): unsafe is an act on an object of the same domain, unless the context excuses that domain.
No single word tells. It is a subject for study and no filter for real requests.

- Data: {recipe.prompts:,} requests; seed {recipe.seed}. Weak acts (two in each domain) stand there only where they are
  harmless, and the judge takes them for that: a weakness to be found and mended.
- In {recipe.absent:.0%} of them words are replaced by the unknown token, with the verdict on what is left; embeddings
  carry noise of {recipe.noise:g} times their size in training. Both make the absence of a word mean something.
- Trained for {card["steps_trained"]:,} steps of {recipe.batch} requests in {card["seconds"]:.0f} s.
{also}- Asked as `{TEMPLATE}`, it answers `{ANSWERS[0]}` or `{ANSWERS[1]}` (`{FILE}`).

| {card["held_out"]["test"]["requests"]:,} further requests | accuracy | unsafe found | F1 | AUC | calibration error |
|---|---|---|---|---|---|
{rows}

Never-seen words are read letter by letter. Made by

```sh
{card["command"]}
```

with torch {card["versions"]["torch"]}. Another machine or thread count gives slightly different weights.
"""
