"""Minimal pairs of arithmetic prompts for patching: change one digit, one operator or one carry and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch

from interp.datasets.arithmetic import (
    PLACES,
    TASKS,
    Carries,
    Problem,
    Split,
    columns,
    sample,
    split_of_problem,
)
from interp.datasets.arithmetic_prompts import PAD, spell, to_prompts
from interp.errors import PromptError
from interp.prompts import PromptPairs, Prompts

Kind = Literal["digit", "operator", "carry"]


def minimal_pairs(
    problems: Sequence[Problem],
    kind: Kind,
    *,
    seed: int = 0,
    operators: str = "+",
    steps: bool = False,
    split: Split = "all",
    multiplier_digits: int | None = None,
    places: Sequence[str] | None = None,
) -> PromptPairs:
    """For each problem a twin that differs in one token, read where that first changes the answer.

    Both prompts are cut just before the first answer token in which they differ, so that everything given so far is
    the same but for the changed token. `digit`: one operand digit; no carry of a sum or difference changes. `carry`:
    one operand digit, such that a carry out of its column changes and the token read lies in a higher column, whose
    own digits are the same.
    `operator`: another of `operators`, the operands kept. Twins come from `split` and, for *, with a second factor of
    at most `multiplier_digits`, and for digits and carries from changes in the columns `places` alone; problems without
    a twin are left out. Roles gain `changed` and `partner` (the other
    digit of that column); labels gain `kind`, `changed` and `target` (names) and `decides`: what the two differ in
    (the digit, the carry into the column read, or the operator). Raises PromptError where none is left.
    """
    if kind not in get_args(Kind):
        raise PromptError(f"there are no pairs of kind {kind!r}; choose from {', '.join(get_args(Kind))}")
    rng = np.random.default_rng(seed)
    found = _find_twins(rng, problems, kind, operators, steps, split, multiplier_digits, places)
    if not found:
        raise PromptError(f"none of the {len(problems)} problems has a minimal pair of kind {kind!r}")
    return _to_pairs(found, kind, steps)


def draw_pairs(
    rng: np.random.Generator,
    count: int,
    kind: Kind,
    *,
    task: str = "add",
    digits: int = 3,
    carries: Carries = "rich",
    split: Split = "all",
    steps: bool = False,
    multiplier_digits: int | None = None,
) -> PromptPairs:
    """Minimal pairs of fresh distinct problems: `count` of them, or as many as are found in a long search.

    Both sides are of `split`. Digit and carry pairs of a mixed task are additions. Raises PromptError for none.
    """
    operators = TASKS[task]
    if kind == "operator" and len(operators) < 2:
        raise PromptError(f"pairs that differ in the operator need a task with several; {task!r} has one, take 'mixed'")
    if kind == "carry" and digits < 2:
        raise PromptError("pairs that differ in a carry need numbers of two digits or more")
    source = "add" if kind != "operator" and "+" in operators else task
    found: list[tuple[Problem, Problem, str]] = []
    seen: set[Problem] = set()
    for _ in range(40):
        drawn = sample(
            rng,
            min(4 * count, 10 ** (2 * digits)),
            task=source,
            digits=digits,
            carries=carries,
            split=split,
            multiplier_digits=multiplier_digits,
        )
        fresh = [p for p in dict.fromkeys(drawn) if p not in seen]
        seen.update(fresh)
        found += _find_twins(rng, fresh, kind, operators, steps, split, multiplier_digits)
        if len(found) >= count or not fresh:
            break
    if not found:
        raise PromptError(f"no minimal pair of kind {kind!r} was found in the split {split!r}; widen the task")
    return _to_pairs(found[:count], kind, steps)


def _find_twins(
    rng: np.random.Generator,
    problems: Sequence[Problem],
    kind: Kind,
    operators: str,
    steps: bool,
    split: Split,
    multiplier_digits: int | None,
    places: Sequence[str] | None = None,
) -> list[tuple[Problem, Problem, str]]:
    """A random twin for each problem that has one, with the token after `=` in which they first differ."""
    found = []
    for problem in problems:
        twins = [t for t in _twins(problem, kind, operators, places) if split == "all" or split_of_problem(t) == split]
        targets = [(twin, _target(problem, twin, kind, steps)) for twin in twins if _fits(twin, multiplier_digits)]
        usable = [(twin, target) for twin, target in targets if target is not None]
        if usable:
            found.append((problem, *usable[int(rng.integers(len(usable)))]))
    return found


def _to_pairs(found: Sequence[tuple[Problem, Problem, str]], kind: Kind, steps: bool) -> PromptPairs:
    clean, corrupted, names = (list(column) for column in zip(*found, strict=True))
    both = [_cut(side, names, steps) for side in (clean, corrupted)]
    places = (both[0].tokens != both[1].tokens).int().argmax(1)
    changed = [_role_at(both[0], i, int(place)) for i, place in enumerate(places)]
    others = [{"a": "b", "b": "a"}.get(name[0]) for name in changed]
    partners = [f"{other}{name[1:]}" for other, name in zip(others, changed, strict=True)]
    absent = torch.full_like(places, -1)
    partner = torch.stack([both[0].roles.get(name, absent)[i] for i, name in enumerate(partners)])
    sides = []
    for prompts, own in zip(both, (clean, corrupted), strict=True):
        decides = [_decides(p, kind, name, target) for p, name, target in zip(own, changed, names, strict=True)]
        labelled = prompts.labels.assign(kind=kind, changed=changed, target=names, decides=decides)
        roles = {**prompts.roles, "changed": places, "partner": partner}
        sides.append(replace(prompts, roles=roles, labels=labelled))
    return PromptPairs(sides[0], sides[1])


def _fits(problem: Problem, multiplier_digits: int | None) -> bool:
    return problem.operator != "*" or multiplier_digits is None or len(str(problem.b)) <= multiplier_digits


def _decides(problem: Problem, kind: Kind, changed: str, target: str) -> str:
    """What distinguishes a side of the pair from the other, as text."""
    if kind == "operator":
        return problem.operator
    if kind == "digit":
        operand, place = changed.split(".")
        return str(int(getattr(problem, operand)) // 10 ** PLACES.index(place) % 10)
    column = PLACES.index(target.split(".")[-1])
    return str(columns(problem)[column - 1].carry_out)


def _twins(problem: Problem, kind: Kind, operators: str, places: Sequence[str] | None = None) -> list[Problem]:
    if kind == "operator":
        return [problem._replace(operator=o) for o in operators if o != problem.operator]
    found = []
    for name in ("a", "b"):
        number = str(getattr(problem, name))
        for i, digit in enumerate(number):
            if places is not None and PLACES[len(number) - 1 - i] not in places:
                continue
            for other in "0123456789":
                leading = i == 0 and other == "0" and len(number) > 1
                if other != digit and not leading:
                    found.append(problem._replace(**{name: int(number[:i] + other + number[i + 1 :])}))
    return found


def _target(clean: Problem, corrupted: Problem, kind: Kind, steps: bool) -> str | None:
    """The first token after `=` in which the two differ, by role; None where the pair is not of this kind."""
    left, right = spell(clean, steps), spell(corrupted, steps)
    start = len(clean.question)
    texts = [f"{text}\0" for text, _ in (left, right)]
    at = next((i for i in range(start, min(map(len, texts))) if texts[0][i] != texts[1][i]), None)
    if at is None:
        return None
    names = [{column: name for name, column in roles.items()}[at + 1] for _, roles in (left, right)]
    if "end" in names or names[0] != names[1]:
        return None
    if kind == "operator":
        return names[0]
    if clean.operator == "*":
        return names[0] if kind == "digit" else None
    was, now = columns(clean), columns(corrupted)
    if len(was) != len(now):
        return None
    differing = [i for i, (x, y) in enumerate(zip(was, now, strict=True)) if (x.a, x.b) != (y.a, y.b)]
    carries = [i for i, (x, y) in enumerate(zip(was, now, strict=True)) if x.carry_out != y.carry_out]
    if clean.operator == "-" and (clean.a < clean.b) != (corrupted.a < corrupted.b):
        return None
    if kind == "digit":
        return names[0] if not carries else None
    place = next((i for i, p in enumerate(PLACES) if names[0].endswith(p)), -1)
    return names[0] if carries and place > max(differing) else None


def _cut(problems: Sequence[Problem], targets: Sequence[str | None], steps: bool) -> Prompts:
    """Prompts that end just before their target token, which is what they are read for."""
    whole = to_prompts(problems, steps=steps)
    place = torch.tensor([whole.read_names.index(str(target)) for target in targets])[:, None]
    reads = whole.reads.gather(1, place)
    lengths = reads[:, 0] + 1
    width = int(lengths.max())
    kept = torch.arange(width) < lengths[:, None]
    return Prompts(
        tokens=torch.where(kept, whole.tokens[:, :width], PAD),
        lengths=lengths,
        texts=tuple(text[: int(n) - 1] for text, n in zip(whole.texts, lengths, strict=True)),
        answers=whole.answers.gather(1, place),
        reads=reads,
        read_names=("target",),
        roles={
            **{name: torch.where(c < lengths, c, -1) for name, c in whole.roles.items() if name != "last"},
            "last": lengths - 1,
        },
        labels=whole.labels,
        groups=whole.groups,
    )


def _role_at(prompts: Prompts, row: int, column: int) -> str:
    return next(
        name for name, columns in prompts.roles.items()
        if int(columns[row]) == column and not name.startswith(("predict.", "last"))
    )  # fmt: skip
