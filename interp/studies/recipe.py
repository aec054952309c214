"""Training recipes for the small arithmetic models: a YAML file in, a Hugging Face folder with a card out."""

from __future__ import annotations

import hashlib
import shlex
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from jaxtyping import Bool, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from interp.datasets.arithmetic import TASKS, Carries, Problem, Split, labels, sample
from interp.datasets.arithmetic_prompts import BOS, EOS, PAD, VOCABULARY, render, to_tokens, tokenizer
from interp.errors import ConfigError, DataError
from interp.estimates import proportion
from interp.files import make_folder, write_json, write_text
from interp.models.load import quiet_transformers
from interp.models.small import Architecture, build_small, check_shape
from interp.models.training import Batch, Evaluation, Schedule, train
from interp.settings import read_yaml
from interp.studies.arithmetic.learning import digits_by_subtask
from interp.studies.saving import save_folder


class Task(BaseModel):
    """What is computed."""

    model_config = ConfigDict(extra="forbid")
    task: Literal["add", "sub", "mul", "mixed"]
    digits: int = Field(default=3, ge=1, le=4, description="operands have 1 to this many digits")
    steps: bool = Field(default=False, description="worked steps stand between `=` and the answer")
    multiplier_digits: int | None = Field(default=None, ge=1, le=4, description="digits of the second factor of *")
    carries: Carries = "rich"
    shares: dict[str, float] | None = Field(default=None, description="share of each operator in a batch")


class Recipe(BaseModel):
    """A model to be trained: `interp train RECIPE.yaml`."""

    model_config = ConfigDict(extra="forbid")
    name: str
    task: Task
    architecture: Architecture = Architecture()
    batch: int = Field(default=256, ge=1)
    steps: int = Field(default=5000, ge=1)
    learning_rate: float = Field(default=4e-3, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    evaluate_every: int = Field(default=250, ge=1)
    patience: int = Field(default=8, ge=1)
    seed: int = 0


def read_recipe(path: Path) -> Recipe:
    """A recipe from YAML. Raises ConfigError for unknown keys and values out of range."""
    return read_yaml(path, Recipe)


def check_recipe(recipe: Recipe) -> None:
    """Raise ConfigError for settings that do not fit together."""
    task = recipe.task
    check_shape(recipe.architecture)
    if task.steps and task.task != "add":
        raise ConfigError("worked steps are defined for addition only; set task: add or steps: false")
    if task.multiplier_digits is not None and task.multiplier_digits > task.digits:
        raise ConfigError(f"multiplier_digits must be 1 to {task.digits}, not {task.multiplier_digits}")
    for operator, share in (task.shares or {}).items():
        if operator not in TASKS[task.task]:
            raise ConfigError(f"shares name {operator!r}, which the task {task.task!r} lacks")
        if not 0 < share <= 1:
            raise ConfigError(f"the share of {operator!r} must be above 0 and at most 1, not {share}")


def build(recipe: Recipe) -> nn.Module:
    """The untrained model of a recipe, initialised from its seed."""
    check_recipe(recipe)
    shape, task = recipe.architecture, recipe.task
    low, high = 10 ** (task.digits - 1), 10**task.digits - 1
    second = 10 ** (task.multiplier_digits or task.digits) - 1
    longest = {"+": Problem(high, "+", high), "-": Problem(low, "-", high), "*": Problem(high, "*", second)}
    context = max(len(render(longest[o], task.steps)) for o in TASKS[task.task]) + 2  # <bos> and <eos>
    return build_small(shape, len(VOCABULARY), context, seed=recipe.seed, special=(BOS, EOS, PAD))


def training_problems(recipe: Recipe, rng: np.random.Generator) -> list[Problem]:
    """One batch of problems as the recipe mixes them."""
    task = recipe.task
    operators = TASKS[task.task]
    shares = task.shares or dict.fromkeys(operators, 1 / len(operators))
    named = {symbol: name for name, symbol in TASKS.items()}
    found: list[Problem] = []
    for operator, share in shares.items():
        found += sample(
            rng,
            max(1, round(recipe.batch * share)),
            task=named[operator],
            digits=task.digits,
            carries=task.carries,
            split="train",
            multiplier_digits=task.multiplier_digits,
        )
    return found


def to_batch(problems: list[Problem], steps: bool) -> Batch:
    """Token ids with `<eos>`, and the mask of what follows `=`."""
    tokens = torch.from_numpy(to_tokens([render(p, steps) for p in problems], end=True))
    questions = torch.tensor([len(p.question) for p in problems])
    place = torch.arange(tokens.shape[1])
    return tokens, (place > questions[:, None]) & (tokens != PAD)


def top_tokens(model: nn.Module, tokens: Int[Tensor, "row pos"]) -> Int[Tensor, "row pos"]:
    """The likeliest token of each column after those before it; the first column as it is."""
    device = next(model.parameters()).device
    found = [model(some[:, :-1].to(device), use_cache=False).logits.argmax(-1).cpu() for some in tokens.split(1024)]
    return torch.cat([tokens[:, :1], torch.cat(found)], 1)


def all_right(model: nn.Module, batch: Batch) -> Bool[Tensor, " row"]:
    """For each row whether every token asked for is the top one: greedy generation is then right too."""
    return _right(top_tokens(model, batch[0]), batch)


def _right(top: Int[Tensor, "row pos"], batch: Batch) -> Bool[Tensor, " row"]:
    tokens, asked = batch
    return ((top == tokens) | ~asked).all(1)


def run_recipe(
    recipe: Recipe, folder: Path, *, device: str = "cpu", command: str, progress: bool = True
) -> dict[str, Any]:
    """Train, evaluate on 5,000 held-out problems (or all there are), write the folder; returns the card.

    An unfinished run in `folder` is taken up again. The folder holds a Hugging Face model, its tokenizer, the recipe,
    `card.json` and `README.md`.
    """
    started = time.perf_counter()
    model = build(recipe).to(device)
    folder = make_folder(folder)
    text = recipe.model_dump_json()
    problems = held_out(recipe, "validation", 2000)
    validation, parts = to_batch(problems, recipe.task.steps), digits_by_subtask(problems, steps=recipe.task.steps)

    def score(trained: nn.Module) -> dict[str, float]:
        top = top_tokens(trained, validation[0])
        return {"all": float(_right(top, validation).float().mean())} | {
            name: part.share(top) for name, part in parts.items()
        }

    def batch(step: int) -> Batch:
        rng = np.random.default_rng((recipe.seed, step))
        return to_batch(training_problems(recipe, rng), recipe.task.steps)

    schedule = Schedule(
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        evaluate_every=recipe.evaluate_every,
        patience=recipe.patience,
    )
    checkpoint = folder / "training.safetensors"
    with quiet_transformers():
        history = train(
            model,
            batch,
            score,
            schedule,
            checkpoint=checkpoint,
            recipe=hashlib.sha256(text.encode()).hexdigest(),
            progress=progress,
        )
        counts = {name: len(part.rows) for name, part in parts.items()}
        card = _card(recipe, model, history, counts, time.perf_counter() - started, command)
        _write(recipe, model, folder, card)
    checkpoint.unlink(missing_ok=True)
    return card


def held_out(recipe: Recipe, split: Split, count: int) -> list[Problem]:
    """Distinct held-out problems, as many of each operator as the task has."""
    task = recipe.task
    named = {symbol: name for name, symbol in TASKS.items()}
    rng = np.random.default_rng(1)
    found: list[Problem] = []
    for operator in TASKS[task.task]:
        wanted = count // len(TASKS[task.task])
        while True:
            try:
                found += sample(
                    rng,
                    wanted,
                    task=named[operator],
                    digits=task.digits,
                    carries=task.carries,
                    split=split,
                    distinct=True,
                    multiplier_digits=task.multiplier_digits,
                )
                break
            except DataError:
                wanted = wanted * 9 // 10
                if wanted < 20:
                    raise
    return found


def _card(
    recipe: Recipe, model: nn.Module, history: list[Evaluation], counts: dict[str, int], seconds: float, command: str
) -> dict[str, Any]:
    problems = held_out(recipe, "test", 5000)
    with torch.inference_mode():
        right = all_right(model, to_batch(problems, recipe.task.steps)).numpy().astype(float)
    known = [labels(p) for p in problems]

    def share(kept: np.ndarray) -> dict[str, float | int | None]:
        if not kept.any():
            return {"n": 0, "value": None, "low": None, "high": None}
        found = proportion(right[kept])
        return {"n": int(kept.sum()), "value": float(found.value), "low": float(found.low), "high": float(found.high)}

    operators = np.array([p.operator for p in problems])
    cascade = np.array([int(str(row["cascade"])) for row in known])
    return {
        "name": recipe.name,
        "kind": "arithmetic",
        "task": recipe.task.model_dump(),
        "seed": recipe.seed,
        "steps_trained": history[-1].step,
        "seconds": round(seconds, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "exact_match": share(np.ones(len(problems), bool)),
        "by_operator": {o: share(operators == o) for o in TASKS[recipe.task.task]},
        "by_cascade": {str(c): share(cascade == c) for c in sorted(set(cascade.tolist()))},
        "history": [[e.step, e.loss, e.score] for e in history],
        "learning": {
            "steps": [e.step for e in history],
            "digits": {
                name: {"n": n, "right": [round(e.scores[name] * n) for e in history]} for name, n in counts.items()
            },
        },
        "command": command,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }


def _write(recipe: Recipe, model: Any, folder: Path, card: dict[str, Any]) -> None:
    save_folder(model, tokenizer(), folder)
    beside = folder / "train.yaml"
    if not beside.exists() or read_recipe(beside) != recipe:
        write_text(beside, yaml.safe_dump(recipe.model_dump(exclude_unset=True), sort_keys=False))
    write_json(folder / "card.json", card)
    write_text(folder / "README.md", _card_text(recipe, card))


def _card_text(recipe: Recipe, card: dict[str, Any]) -> str:
    def line(name: str, row: dict[str, Any]) -> str:
        if not row["n"]:
            return f"| {name} | 0 | | |"
        return f"| {name} | {row['n']:,} | {row['value']:.2%} | {row['low']:.2%} to {row['high']:.2%} |"

    task, shape = recipe.task, recipe.architecture
    what = {"add": "addition", "sub": "subtraction", "mul": "multiplication", "mixed": "+, - and *"}[task.task]
    worked = ", with worked steps before the answer" if task.steps else ""
    factor = f" (second factor up to {task.multiplier_digits})" if task.multiplier_digits else ""
    example = Problem(59, TASKS[task.task][0], 73) if task.digits > 1 else Problem(9, TASKS[task.task][0], 4)
    rows = [line("all", card["exact_match"])]
    rows += [line(f"operator {o}", row) for o, row in card["by_operator"].items() if len(card["by_operator"]) > 1]
    rows += [
        line("no cascade" if c == "0" else f"a carry through {c} column{'s' if c != '1' else ''}", row)
        for c, row in card["by_cascade"].items()
    ]
    return f"""# {recipe.name}

A {shape.form} of {shape.layers} layers, {shape.heads} heads and width {shape.width} ({card["parameters"]:,} parameters)
trained on {what} of numbers with 1 to {task.digits} digits{factor}{worked}:
`{render(example, task.steps)}`.

- Data: problems drawn at each step from the training split (90 % by a hash of the problem, operands of + and * in
  either order counted as one), operand lengths equally likely, carries {task.carries}; seed {recipe.seed}.
- Trained for {card["steps_trained"]:,} steps of {recipe.batch} problems in {card["seconds"]:.0f} s; the weights are
  those with the best validation score.
- Made by `{card["command"]}` with torch {card["versions"]["torch"]}. Another machine or thread count gives slightly
  different weights.

Exact match on problems of the test split, none of them seen in training (every token after `=` right; Wilson 95 %):

| problems | n | exact match | interval |
|---|---|---|---|
{chr(10).join(rows)}
"""


def command_line(arguments: list[str]) -> str:
    """A command as it would be typed."""
    return " ".join(["interp", *map(shlex.quote, arguments)])
