"""Arithmetic problems and minimal pairs as JSONL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from interp.datasets.arithmetic import Carries, Problem, Split, labels, sample, split_of_problem
from interp.datasets.arithmetic_pairs import Kind, draw_pairs
from interp.datasets.arithmetic_prompts import render, to_prompts
from interp.errors import ConfigError, DataError
from interp.files import read_jsonl, write_jsonl
from interp.prompts import Prompts


def write_arithmetic(
    path: Path | str,
    *,
    task: str,
    digits: int,
    count: int,
    steps: bool = False,
    carries: Carries = "uniform",
    split: Split = "all",
    pairs: Kind | None = None,
    seed: int = 0,
) -> int:
    """Write `count` distinct problems (or pairs); returns the number of rows."""
    if steps and task != "add":
        raise ConfigError("worked steps are defined for addition only; use --task add or --no-steps")
    rng = np.random.default_rng(seed)
    if pairs is None:
        problems = sample(rng, count, task=task, digits=digits, carries=carries, split=split, distinct=True)
        rows = _problem_rows(problems, steps)
    else:
        rows = _pair_rows(rng, task, digits, count, carries, split, pairs, steps)
    write_jsonl(path, rows)
    return len(rows)


def read_problems(path: Path | str) -> list[Problem]:
    """Problems of a JSONL file written by `write_arithmetic` (or any with `question`)."""
    rows = read_jsonl(path)
    try:
        return [Problem.parse(str(row["question"])) for row in rows]
    except KeyError:
        raise DataError(f"{path} has no column 'question'; make it with `interp data arithmetic`") from None


def _problem_rows(problems: list[Problem], steps: bool) -> list[dict[str, Any]]:
    prompts = to_prompts(problems, steps=steps)
    rows = []
    for i, problem in enumerate(problems):
        row: dict[str, Any] = {"text": render(problem, steps), "question": problem.question}
        if steps:
            row["steps"] = problem.steps
        row |= {"answer": str(problem.result), "split": split_of_problem(problem), "roles": _roles(prompts, i)}
        row["labels"] = {k: v for k, v in labels(problem).items() if k not in ("a", "b", "result", "operator")}
        row |= {"operator": problem.operator, "a": problem.a, "b": problem.b}
        rows.append(row)
    return rows


def _pair_rows(
    rng: np.random.Generator,
    task: str,
    digits: int,
    count: int,
    carries: Carries,
    split: Split,
    kind: Kind,
    steps: bool,
) -> list[dict[str, Any]]:
    found = draw_pairs(rng, count, kind, task=task, digits=digits, carries=carries, split=split, steps=steps)
    if len(found) < count:
        raise DataError(
            f"only {len(found)} pairs of kind {kind!r} were found in the split {split!r}, not {count}; ask for fewer"
        )
    rows = []
    clean, corrupted = found.clean, found.corrupted
    for i in range(count):
        row = clean.labels.iloc[i]
        rows.append(
            {
                "clean": clean.texts[i],
                "corrupted": corrupted.texts[i],
                "answer": _symbol(int(clean.answers[i, 0])),
                "foil": _symbol(int(corrupted.answers[i, 0])),
                "kind": row["kind"],
                "changed": row["changed"],
                "target": row["target"],
                "decides": [row["decides"], corrupted.labels["decides"].iloc[i]],
                "roles": _roles(clean, i),
            }
        )
    return rows


def _symbol(token: int) -> str:
    from interp.datasets.arithmetic_prompts import VOCABULARY

    return next(symbol for symbol, i in VOCABULARY.items() if i == token)


def _roles(prompts: Prompts, row: int) -> dict[str, int]:
    return {name: int(columns[row]) for name, columns in prompts.roles.items() if int(columns[row]) >= 0}
