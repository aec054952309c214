"""How does a small transformer add? Attention, logit lens and patching on models of this library's arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analyses.heads import COMMON, Job, attends
from interp.analyses.patching import patching
from interp.datasets.arithmetic import PLACES, TASKS, Problem, sample
from interp.datasets.arithmetic_pairs import Kind, draw_pairs, minimal_pairs
from interp.datasets.arithmetic_prompts import to_prompts
from interp.errors import ConfigError, DataError, ModelError, PromptError
from interp.files import read_json
from interp.metrics import METRICS, Targets
from interp.models.load import HookedTransformer, info, untrained
from interp.models.run import capture, check_context
from interp.prompts import Position, PromptPairs, Prompts
from interp.sites import Site
from interp.studies.pictures import patching_pictures
from interp.studies.settings import Settings, chosen_layers
from interp.studies.steps import Subject
from interp.studies.study import Report, Results, Step
from interp.tensors import Activations

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


class ArithmeticSubject(Subject):
    """One arithmetic model with the prompts it is studied on; everything heavy is made once, when first wanted."""

    def __init__(self, model: HookedTransformer, card: Mapping[str, Any], settings: Settings) -> None:
        task = card["task"]
        self.model = model
        self.task: str = task["task"]
        self.digits: int = task["digits"]
        self.steps: bool = task["steps"]
        self.multiplier_digits: int | None = task.get("multiplier_digits")
        self.operators = TASKS[self.task]
        defaults = [p for p in _EXAMPLES if p.operator in self.operators and len(str(max(p.a, p.b))) <= self.digits]
        self.examples = [Problem.parse(text) for text in settings.examples] or defaults[:3]
        self.settings = settings.model_copy(update={"examples": [p.question.removesuffix("=") for p in self.examples]})
        self.layers = chosen_layers(model, settings)
        if settings.pairs:
            raise ConfigError("pairs: is for own prompts; an arithmetic model is studied on pairs made for it")
        for problem in self.examples:
            self._check(problem)
        if self.examples:
            check_context(model, to_prompts(self.examples, steps=self.steps))
        for role in settings.roles or []:
            if isinstance(role, str) and role not in self.roles:
                raise ConfigError(f"there is no role {role!r}; choose from {', '.join(self.roles)}")
            if isinstance(role, int) and not -self.longest <= role < self.longest:
                raise ConfigError(f"there is no token {role}: the prompts have at most {self.longest} tokens")

        for probe in settings.probes:
            for label in (probe.label, *probe.key):
                if label not in self.prompts.labels:
                    raise ConfigError(
                        f"there is no label {label!r} to probe; choose from {', '.join(map(str, self.prompts.labels))}"
                    )
            for role in probe.at:
                self.prompts.columns(role)

    def _check(self, problem: Problem) -> None:
        name, text = info(self.model).name, problem.question.removesuffix("=")
        if problem.operator not in self.operators:
            known = " ".join(self.operators)
            raise PromptError(f"{text!r} asks for {problem.operator}, which {name} never learned; it knows {known}")
        if len(str(max(problem.a, problem.b))) > self.digits:
            raise PromptError(f"{text!r} is too long: {name} learned numbers of up to {self.digits} digits")

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return int(self.prompts.lengths.max())

    @cached_property
    def problems(self) -> list[Problem]:
        """Held-out problems behind the statistics."""
        return self.sample((self.settings.seed, 1), self.settings.problems, self.task)

    def sample(self, seed: tuple[int, int], count: int, task: str) -> list[Problem]:
        """Distinct held-out problems of the kind the model was trained on, rich in carries; fewer where few exist."""
        while True:
            try:
                return sample(
                    np.random.default_rng(seed), count, task=task, digits=self.digits, carries="rich", split="test",
                    distinct=True, multiplier_digits=self.multiplier_digits,
                )  # fmt: skip
            except DataError:
                count = count * 4 // 5
                if count < 1:
                    raise

    @property
    def groups(self) -> Int[Tensor, " prompt"]:
        """Groups of the problems, for resampling."""
        return self.prompts.groups[: len(self.problems)]

    @cached_property
    def prompts(self) -> Prompts:
        """The problems, and behind them the examples."""
        return to_prompts([*self.problems, *self.examples], steps=self.steps)

    @property
    def digest(self) -> str:
        """Hash of the problems and examples."""
        return self.prompts.digest

    @cached_property
    def activations(self) -> Activations:
        """One forward pass for everything descriptive."""
        sites = ["resid_pre", Site("resid_post", info(self.model).n_layers - 1)]
        sites += [Site("pattern", layer) for layer in self.layers]
        sites += ["attn_out", "mlp_out", "z"] if self.settings.wants("attribution") else []
        return capture(self.model, self.prompts, sites)

    @cached_property
    def _on_prompts(self) -> Activations:
        return self.activations.take(range(len(self.problems)))

    @property
    def on_prompts(self) -> Activations:
        """The activations behind the statistics."""
        return self._on_prompts

    @property
    def on_examples(self) -> Activations | None:
        """The activations of the examples."""
        if not self.examples:
            return None
        return self.activations.take(range(len(self.problems), len(self.prompts)))

    def pairs(self, kind: Kind) -> PromptPairs:
        """Minimal pairs of held-out problems, both sides; an equals sign that reads the answer is the reader only."""
        found = draw_pairs(
            np.random.default_rng((self.settings.seed, 2)), self.settings.pairs_per_kind, kind, task=self.task,
            digits=self.digits, split="test", steps=self.steps, multiplier_digits=self.multiplier_digits,
        )  # fmt: skip
        equals = found.clean.roles["="]
        return found.with_role("=", torch.where(equals == found.clean.roles["last"], -1, equals))

    @property
    def kinds(self) -> list[Kind]:
        """Kinds of minimal pairs that exist for the task: with worked steps a changed digit shows before any carry."""
        kinds: list[Kind] = ["digit"]
        if not self.steps and self.operators != "*" and self.digits > 1:
            kinds.append("carry")
        if len(self.operators) > 1:
            kinds.append("operator")
        return kinds

    @cached_property
    def roles(self) -> list[str]:
        """Positions that can be patched: the parts of a pair, and the places of the question."""
        places = list(reversed(PLACES[: self.digits]))
        operands = [f"a.{p}" for p in places] + ["operator"] + [f"b.{p}" for p in places]
        return [*operands, "=", "changed", "partner", "last"]

    @property
    def jobs(self) -> dict[str, Job]:
        """Jobs that a head of an adding model may have; with worked steps the columns are added in the steps."""
        places = PLACES[: self.digits + 1]
        lower = dict(zip(places[1:], places[:-1], strict=True))
        answer = {p: f"predict.answer.{p}" for p in places}
        adder = {p: f"predict.step.{p}.digit" for p in places} if self.steps else answer
        wanted: dict[str, dict[str, list[str]]] = {
            "own column": {adder[p]: [f"a.{p}", f"b.{p}"] for p in places},
            "next lower column": {adder[p]: [f"a.{q}", f"b.{q}"] for p, q in lower.items()},
            "operator": {answer[p]: ["operator"] for p in places},
            "equals sign": {answer[p]: ["="] for p in places},
            "own step": {answer[p]: [f"step.{p}.digit"] for p in places},
        }
        known = self.prompts.roles
        jobs = {
            name: {query: keys for query, keys in job.items() if known.keys() >= {query, *keys}}
            for name, job in wanted.items()
        }
        return {**COMMON, **{name: attends(job) for name, job in jobs.items() if job}}

    @property
    def tracked(self) -> list[str]:
        """Queries at which answer digits are predicted."""
        return [name for name in self.prompts.roles if name.startswith("predict.answer")]


_EXAMPLES = [Problem(59, "+", 73), Problem(999, "+", 1), Problem(402, "-", 75), Problem(87, "*", 6), Problem(4, "+", 8)]


def read_card(folder: Path) -> dict[str, Any] | None:
    """The card of a model made by `interp train`; None for any other model."""
    path = folder / "card.json"
    if not path.is_file():
        return None
    card = read_json(path)
    if not isinstance(card, dict) or card.get("kind") != "arithmetic" or "task" not in card:
        return None
    if not isinstance(card["task"], dict):
        raise ModelError(f"{path}: task is no mapping; train the model again or remove the card")
    lacking = {"task", "digits", "steps"} - set(card["task"])
    if lacking:
        raise ModelError(f"{path} lacks task.{min(lacking)}; train the model again or remove the card")
    if card["task"]["task"] not in TASKS:
        raise ModelError(f"{path}: there is no task {card['task']['task']!r}; it must be one of {', '.join(TASKS)}")
    return card


def accuracy_step(subject: ArithmeticSubject) -> Step:
    """Exact match on held-out problems, and of the untrained architecture."""
    settings = subject.settings

    def compute(report: Report) -> Results:
        per = ACCURACY_PROBLEMS // len(subject.operators)
        named = {symbol: name for name, symbol in TASKS.items()}
        problems = [p for o in subject.operators for p in subject.sample((settings.seed, 3), per, named[o])]
        prompts = to_prompts(problems, steps=subject.steps)
        targets = Targets.of(prompts)

        def right(model: HookedTransformer) -> Tensor:
            return METRICS["exact_match"].score(capture(model, prompts, ["logits"])["logits"], targets).cpu()

        fresh = [right(m).mean() for m in untrained(subject.model, range(settings.untrained))]
        others = torch.stack(fresh) if fresh else torch.zeros(0)
        cascade = torch.tensor(prompts.labels["cascade"].tolist())
        operator = torch.tensor(["+-*".index(o) for o in prompts.labels["operator"]])
        return {"accuracy": Accuracy(right(subject.model), cascade, operator, prompts.groups, others)}

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
            pairs = subject.pairs(kind)
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
                    computed[name] = patching(
                        subject.model, pairs, site=site, metric=metric, positions=positions, **common
                    )
        for name, pairs in _example_pairs(subject).items():
            computed[name] = patching(subject.model, pairs, metric=settings.metrics[0], control=False, **common)
        return computed

    options = (settings.sites, settings.metrics, settings.roles, common, settings.pairs_per_kind)
    return Step(
        "patching",
        compute,
        subject.key("patching", *options),
        lambda r: patching_pictures(r, {name: labels_of(pairs) for name, pairs in _example_pairs(subject).items()}),
        text="A place matters for the answer where patching it moves the metric beyond what erasing does.",
    )


def _example_pairs(subject: ArithmeticSubject) -> dict[str, PromptPairs]:
    """One minimal pair of each kind for each example that has one."""
    found: dict[str, PromptPairs] = {}
    for (number, problem), kind in product(enumerate(subject.examples), subject.kinds):
        with suppress(PromptError):
            found[f"example-{number}.{kind}"] = minimal_pairs(
                [problem], kind, seed=subject.settings.seed, operators=subject.operators, steps=subject.steps,
                multiplier_digits=subject.multiplier_digits,
            )  # fmt: skip
    return found


def labels_of(pairs: PromptPairs) -> tuple[str, str, list[str]]:
    """Texts of a single pair's two prompts and its tokens, `a/b` where they differ."""
    clean, corrupted = pairs.clean.texts[0], pairs.corrupted.texts[0]
    tokens = [x if x == y else f"{x}/{y}" for x, y in zip(clean, corrupted, strict=True)]
    return clean, corrupted, ["<bos>", *tokens]
