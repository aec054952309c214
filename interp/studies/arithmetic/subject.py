"""How does a small transformer add? Attention, logit lens and patching on models of this library's arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.analyses.heads import COMMON, Job, attends
from interp.analyses.patching import Patching, patching
from interp.datasets.arithmetic import PLACES, TASKS, Problem, labels, sample
from interp.datasets.arithmetic_pairs import Kind, draw_pairs, minimal_pairs
from interp.datasets.arithmetic_prompts import to_prompts
from interp.errors import ConfigError, DataError, ModelError, PromptError
from interp.files import read_json
from interp.models.load import HookedTransformer, info
from interp.models.run import capture, check_context
from interp.prompts import Position, PromptPairs, Prompts
from interp.sites import Site
from interp.studies.settings import Example, Settings, chosen_layers
from interp.studies.steps import Subject
from interp.tensors import Activations

OPERATORS = {"+": "addition", "-": "subtraction", "*": "multiplication"}


class ArithmeticSubject(Subject):
    """One arithmetic model with the prompts it is studied on; everything heavy is made once, when first wanted."""

    def __init__(self, model: HookedTransformer, card: Mapping[str, Any], settings: Settings) -> None:
        task = card["task"]
        self.model = model
        self.task: str = task["task"]
        self.digits: int = task["digits"]
        self.steps: bool = task["steps"]
        self.learning: Mapping[str, Any] | None = card.get("learning")
        self.multiplier_digits: int | None = task.get("multiplier_digits")
        self.operators = TASKS[self.task]
        defaults = [p for p in _EXAMPLES if p.operator in self.operators and len(str(max(p.a, p.b))) <= self.digits]
        self.examples = [Problem.parse(text) for text in settings.texts] or defaults[:3]
        self.carries = {i: one.carries for i, one in enumerate(settings.examples) if one.carries}
        texts = [p.question.removesuffix("=") for p in self.examples]
        shown = [Example(text=text, carries=self.carries.get(i, [])) for i, text in enumerate(texts)]
        self.settings = settings.model_copy(update={"examples": shown})
        self.layers = chosen_layers(model, settings)
        self._pairs: dict[Kind, PromptPairs] = {}
        self._patched: dict[tuple[object, ...], Patching] = {}
        if settings.pairs:
            raise ConfigError("pairs: is for own prompts; an arithmetic model is studied on pairs made for it")
        for problem in self.examples:
            self._check(problem)
        for number, places in self.carries.items():
            self._check_carries(self.examples[number], places)
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

    def _check_carries(self, problem: Problem, places: Sequence[str]) -> None:
        if "carry" not in self.kinds or problem.operator == "*":
            raise ConfigError(
                "carries: needs a sum or difference of two digits or more, and a model without worked steps (which "
                "show the digits before any carry)"
            )
        known = labels(problem)
        real = [place for place in PLACES if known.get(f"carry.{place}")]
        wrong = [place for place in places if place not in real]
        if wrong:
            raise PromptError(
                f"{problem.question.removesuffix('=')!r} has no carry out of the {wrong[0]}; it has "
                f"{'one out of the ' + ', '.join(real) if real else 'none at all'}"
            )
        for place in places:
            try:
                minimal_pairs([problem], "carry", operators=self.operators, places=[place])
            except PromptError:
                text = problem.question.removesuffix("=")
                raise PromptError(
                    f"no other digit in the {place} of {text!r} takes that carry away and leaves the answer as long; "
                    f"take another problem, or leave {place} out of carries:"
                ) from None

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
        sites += ["resid_mid"] if self.settings.wants("probing") else []
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
        if kind not in self._pairs:
            self._pairs[kind] = self._drawn(kind)
        return self._pairs[kind]

    def _drawn(self, kind: Kind) -> PromptPairs:
        found = draw_pairs(
            np.random.default_rng((self.settings.seed, 2)), self.settings.pairs_per_kind, kind, task=self.task,
            digits=self.digits, split="test", steps=self.steps, multiplier_digits=self.multiplier_digits,
        )  # fmt: skip
        equals = found.clean.roles["="]
        return found.with_role("=", torch.where(equals == found.clean.roles["last"], -1, equals))

    @cached_property
    def more(self) -> Activations:
        """Four times as many held-out problems, none of them among `problems`: for what needs many, or others."""
        known = {_unordered(problem) for problem in self.problems}
        drawn = self.sample((self.settings.seed, 3), 5 * self.settings.problems, self.task)
        drawn = [problem for problem in drawn if _unordered(problem) not in known][: 4 * self.settings.problems]
        prompts = to_prompts(drawn, steps=self.steps)
        prompts = replace(prompts, labels=prompts.labels.assign(**shapes(drawn)))
        n = info(self.model).n_layers
        return capture(self.model, prompts, ["resid_pre", "resid_mid", Site("resid_post", n - 1), "mlp_post"])

    @property
    def digit_reads(self) -> list[str]:
        """The tokens in which columns are added: the digits of the worked steps, or of the answer."""
        names = [f"step.{p}.digit" if self.steps else f"answer.{p}" for p in PLACES]
        return [name for name in names if name in self.prompts.read_names]

    def patched(self, kind: Kind, site: str, metric: str, positions: Sequence[Position] | None) -> Patching:
        """Patching of a site in pairs of a kind, computed when first wanted."""
        which = (kind, site, metric, None if positions is None else tuple(positions))
        if which not in self._patched:
            self._patched[which] = patching(
                self.model, self.pairs(kind), site=site, metric=metric, positions=positions, layers=self.layers,
                direction=self.settings.direction, seed=self.settings.seed,
            )  # fmt: skip
        return self._patched[which]

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


def _unordered(problem: Problem) -> tuple[str, int, int]:
    """The problem, either order of a sum or product counted as one, as the splits count them."""
    a, b = problem.a, problem.b
    return (problem.operator, a, b) if problem.operator == "-" else (problem.operator, min(a, b), max(a, b))


def carry_contrasts(problems: Sequence[Problem]) -> dict[str, Any]:
    """Labels that tell a plain carry into a column from none, and a carry through nines from a plain one."""
    found = {}
    known = [labels(problem) for problem in problems]
    for place in PLACES:
        for name, asked, other in (("a carry", "use-carry", "base-add"), ("nines", "use-nine", "use-carry")):
            column = [(row.get(f"{asked}.{place}"), row.get(f"{other}.{place}")) for row in known]
            found[f"{name} into {place}"] = [bool(yes) if yes or no else None for yes, no in column]
    return found


def shapes(problems: Sequence[Problem]) -> dict[str, Any]:
    """Label columns to match problems by: the operands' lengths, alone and with the operator; operators, carries in."""
    lengths = [f"{len(str(p.a))} and {len(str(p.b))} digits" for p in problems]
    found: dict[str, Any] = {"lengths": lengths}
    found["shape"] = [f"{p.operator} {length}" for p, length in zip(problems, lengths, strict=True)]
    found |= {name: [p.operator == o for p in problems] for o, name in OPERATORS.items()}
    return found | carry_contrasts(problems)


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


def common_task(first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]) -> dict[str, Any]:
    """What two arithmetic models have both learned. Raises ConfigError where that is nothing."""
    tasks = [card["task"] for card in (first, second)]
    both = [o for o in TASKS[tasks[0]["task"]] if o in TASKS[tasks[1]["task"]]]
    if not both:
        raise ConfigError(f"{names[0]} and {names[1]} have no operator in common, so there is nothing to compare")
    symbols = {symbols: name for name, symbols in TASKS.items()}
    multipliers = [task.get("multiplier_digits") or task["digits"] for task in tasks]
    digits = min(task["digits"] for task in tasks)
    return {"task": symbols["".join(both)], "digits": digits, "multiplier_digits": min(*multipliers, digits)}
