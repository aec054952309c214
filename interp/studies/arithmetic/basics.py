"""The steps every arithmetic model is first asked: how well it computes, and where the information travels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analyses.patching import patching
from interp.datasets.arithmetic import TASKS
from interp.datasets.arithmetic_pairs import minimal_pairs
from interp.datasets.arithmetic_prompts import to_prompts
from interp.errors import PromptError
from interp.metrics import METRICS, Targets
from interp.models.load import HookedTransformer, untrained
from interp.models.run import capture
from interp.prompts import Position, PromptPairs, Prompts
from interp.sites import Site
from interp.studies.arithmetic.subject import ArithmeticSubject
from interp.studies.pictures import patching_pictures
from interp.studies.study import Report, Results, Step
from interp.workflows.comparison import Table, table_of

ACCURACY_PROBLEMS = 2000
RELATIVE = ("changed", "partner", "operator", "=", "last")
"""Positions by their part in a pair: the token that differs, the other digit of its column, operator, equals sign
(where it is not the reader) and the reader, whose logits predict the answer."""


@dataclass(frozen=True, eq=False)
class Accuracy:
    """Exact match on held-out problems; every answer token and the end must be right."""

    right: Float[Tensor, " prompt"]
    cascade: Int[Tensor, " prompt"]
    """Through how many columns of nines (borrows: of zeros) a carry runs."""
    operator: Int[Tensor, " prompt"]
    """0 for +, 1 for -, 2 for *."""
    groups: Int[Tensor, " prompt"]
    untrained: Float[Tensor, " seed"]
    """Exact match of the same architecture untrained."""


@table_of.register
def _(result: Accuracy) -> Table:
    return Table(
        "accuracy", "share of problems", ("every token right",), ("all problems",), result.right[:, None, None],
        result.groups,
    )  # fmt: skip


def accuracy_step(subject: ArithmeticSubject) -> Step:
    """Exact match on held-out problems, and of the untrained architecture."""
    settings = subject.settings

    def compute(report: Report) -> Results:
        per = ACCURACY_PROBLEMS // len(subject.operators)
        named = {symbol: name for name, symbol in TASKS.items()}
        problems = [p for o in subject.operators for p in subject.sample((settings.seed, 3), per, named[o])]
        prompts = to_prompts(problems, steps=subject.steps)

        def right(model: HookedTransformer, prompts: Prompts) -> Tensor:
            logits = capture(model, prompts, ["logits"])["logits"]
            return METRICS["exact_match"].score(logits, Targets.of(prompts)).cpu()

        some = prompts.take(range(0, len(prompts), 4))  # enough to see that next to nothing is right
        fresh = [right(m, some).mean() for m in untrained(subject.model, range(settings.untrained))]
        others = torch.stack(fresh) if fresh else torch.zeros(0)
        cascade = torch.tensor(prompts.labels["cascade"].tolist())
        operator = torch.tensor(["+-*".index(o) for o in prompts.labels["operator"]])
        return {"accuracy": Accuracy(right(subject.model, prompts), cascade, operator, prompts.groups, others)}

    return Step(
        "accuracy",
        compute,
        subject.key("accuracy", settings.seed, settings.untrained),
        text="Held-out problems, each answer token read with the earlier ones given.",
    )


def patching_step(subject: ArithmeticSubject) -> Step:
    """Every site over layers and roles (or heads), for every kind of pair; and each example by token."""
    settings = subject.settings
    common: dict[str, Any] = {"layers": subject.layers, "direction": settings.direction, "seed": settings.seed}

    def compute(report: Report) -> Results:
        computed: Results = {}
        for kind in subject.kinds:
            relative = [r for r in RELATIVE if kind != "operator" or r not in ("partner", "operator")]
            for site in settings.sites:
                by_unit = Site(site, 0).unit_axis is not None
                grids: dict[str, Sequence[Position] | None] = (
                    {"": None} if by_unit else {"": settings.roles or relative}
                )
                if site == "resid_pre" and not settings.roles:
                    grids["by-place"] = [r for r in subject.roles if r not in ("changed", "partner", "last")]
                for (grid, positions), metric in product(grids.items(), settings.metrics):
                    name = ".".join(filter(None, (kind, site, metric, grid)))
                    report(name)
                    computed[name] = subject.patched(kind, site, metric, positions)
        for name, pairs in _example_pairs(subject).items():
            computed[name] = patching(subject.model, pairs, metric=settings.metrics[0], control=False, **common)
        return computed

    options = (settings.sites, settings.metrics, settings.roles, common, settings.pairs_per_kind, subject.carries)
    return Step(
        "patching",
        compute,
        subject.key("patching", *options),
        lambda r: patching_pictures(r, {name: labels_of(pairs) for name, pairs in _example_pairs(subject).items()}),
        text="A place matters for the answer where patching it moves the metric beyond what erasing does.",
    )


def _example_pairs(subject: ArithmeticSubject) -> dict[str, PromptPairs]:
    """One minimal pair of each kind for each example that has one; of carries, one for each column asked for."""
    found: dict[str, PromptPairs] = {}
    for (number, problem), kind in product(enumerate(subject.examples), subject.kinds):
        asked = subject.carries.get(number) if kind == "carry" else None
        for place in asked or [None]:
            with suppress(PromptError):
                found[".".join(filter(None, (f"example-{number}", kind, place)))] = minimal_pairs(
                    [problem], kind, seed=subject.settings.seed, operators=subject.operators, steps=subject.steps,
                    multiplier_digits=subject.multiplier_digits, places=place and [place],
                )  # fmt: skip
    return found


def labels_of(pairs: PromptPairs) -> tuple[str, str, list[str]]:
    """Texts of a single pair's two prompts and its tokens, `a/b` where they differ."""
    clean, corrupted = pairs.clean.texts[0], pairs.corrupted.texts[0]
    tokens = [x if x == y else f"{x}/{y}" for x, y in zip(clean, corrupted, strict=True)]
    return clean, corrupted, ["<bos>", *tokens]
