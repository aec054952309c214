"""Probes for carries, digits and the operator, and whether the model uses what the carry's probe reads along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from interp.analyses.probing import Probing, probing
from interp.analyses.steering import direction_test
from interp.datasets.arithmetic import PLACES
from interp.datasets.arithmetic_prompts import VOCABULARY
from interp.errors import ConfigError, PromptError
from interp.estimates import FEWEST_GROUPS, mean, mean_value
from interp.figures import plot
from interp.metrics import Targets
from interp.models.directions import Direction
from interp.prompts import Prompts
from interp.studies.arithmetic.subject import ArithmeticSubject
from interp.studies.settings import Probe
from interp.studies.study import Picture, Report, Results, Step
from interp.tensors import Activations

FEWEST = 60
"""Problems below which a probe of one operator is not fitted."""

RANDOM = 10
"""Random directions beside the carry's."""


@dataclass(frozen=True)
class Asked:
    """A probe of the study."""

    name: str
    probe: Probe
    operator: str = ""
    """The one operator whose problems it is fitted on; empty for all."""


def probing_step(subject: ArithmeticSubject) -> Step:
    """Linear probes for carries, digits and the operator, and for the user's own labels."""
    asked = own_probes(subject)
    for number, probe in enumerate(subject.settings.probes):
        taken = probe.label in {one.name for one in asked}
        asked.append(Asked(f"{probe.label} own {number + 1}" if taken else probe.label, probe))
    seed = subject.settings.seed

    def compute(report: Report) -> Results:
        computed: Results = {}
        for one in asked:
            report(one.name)
            found = _activations(subject, one)
            if found is not None:
                computed[one.name] = probing(found, one.probe.label, at=one.probe.at, key=one.probe.key, seed=seed)
        for place, above in pairwise(PLACES[: subject.digits]):
            probe = computed.get(f"carry.{place}")
            if probe is not None and not subject.steps:
                report(f"the carry's direction, {place}")
                computed |= use_of_carry(subject, probe, place, above)
        return computed

    return Step(
        "probing",
        compute,
        subject.key("probing", [(one.name, one.probe.model_dump()) for one in asked], subject.settings.problems, seed),
        _pictures,
        text="What can be read linearly. That it is there does not say that the model uses it; adding the carry's "
        "direction does.",
    )  # fmt: skip


def _pictures(found: Results) -> list[Picture]:
    made = []
    for name, result in found.items():
        if isinstance(result, Probing):
            text = f"Probes for {name}, by depth and position."
            made.append(Picture(_file(name), text, lambda r=result: plot(r), name in dict(carry_probes(found))))
        else:
            made.append(Picture(_file(name), f"{name}, beside random directions.", lambda r=result: plot(r)))
    return made


def _file(name: str) -> str:
    return name.replace(".", "-").replace(" ", "-")


def _activations(subject: ArithmeticSubject, one: Asked) -> Activations | None:
    """The problems that a probe is fitted on; None where there are too few of its operator."""
    # Products are a third of the problems or fewer, so they come from the larger sample.
    found = subject.more if one.operator == "*" else subject.on_prompts
    if not one.operator or len(subject.operators) == 1:
        return found
    kept = found.prompts.labels["operator"].to_numpy() == one.operator
    return found.take(kept) if kept.sum() >= FEWEST else None


def own_probes(subject: ArithmeticSubject) -> list[Asked]:
    """A carry where the next digit is predicted, a digit of the answer where it is, the operator at the equals sign.

    The control task hangs on the digit pair of the column, which comes again with other operands.
    """
    known = subject.prompts.roles
    made: list[Asked] = []

    def at(*roles: str) -> list[str | int]:
        return [role for role in roles if role in known]

    for place, above in pairwise(PLACES[: subject.digits]):
        reads = at(f"predict.answer.{above}", "=")  # later ones have seen the digit above, and with it the carry
        if "+" in subject.operators:
            made.append(
                Asked(f"carry.{place}", Probe(label=f"carry.{place}", at=reads, key=[f"a.{place}", f"b.{place}"]), "+")
            )
        if "*" in subject.operators:
            # The carry of a product is another thing, with more values; the second factor has one digit.
            made.append(
                Asked(f"product carry.{place}", Probe(label=f"carry.{place}", at=reads, key=[f"a.{place}", "b"]), "*")
            )
    tens = at("predict.answer.tens", "=")
    made.append(Asked("answer.tens", Probe(label="answer.tens", at=tens, key=["a.tens", "b.tens"])))
    if len(subject.operators) > 1:
        reads = at("=", "predict.answer.tens", "predict.answer.ones")
        made.append(Asked("operator", Probe(label="operator", at=reads, key=["a.ones", "b.ones"])))
    return made


def use_of_carry(subject: ArithmeticSubject, probe: Probing, place: str, above: str) -> Results:
    """The direction that the carry's probe reads along, added and projected out where the next digit is predicted.

    On other problems than the probe was fitted on. The vector is scaled to lead from the mean of the problems without a
    carry to that of those with one, along the probe's direction. Added where no carry comes in, the model should write
    one more; subtracted where one does, one less; both beside random directions of the same length. A digit that is
    nothing but the carry has no column, and is left out: without the carry it would not be there.
    """
    role, read = f"predict.answer.{above}", f"answer.{above}"
    inner = range(1, len(probe.depths) - 1)
    if role not in probe.positions or not inner:
        return {}
    position = probe.positions.index(role)
    accuracy = mean_value(probe.right[:, :, position])
    depth = max(inner, key=lambda i: np.nan_to_num(accuracy[i]))
    fitted = _activations(subject, Asked("", Probe(label=probe.label, at=[role], key=[probe.label]), "+"))
    assert fitted is not None
    try:
        direction = _scaled(probe.direction(depth, position, "1"), fitted, probe.label, depth, role)
    except (ConfigError, PromptError):  # no probe could be fitted there
        return {}
    prompts = subject.more.prompts
    carry = prompts.coded(probe.label)
    here = (prompts.labels["operator"] == "+").to_numpy() & (prompts.columns(role) >= 0).numpy()
    has_column = prompts.labels[[f"a.{above}", f"b.{above}"]].notna().any(axis=1).to_numpy()
    here &= (prompts.columns(read) >= 0).numpy() & has_column
    found: Results = {}
    for value, dose, name in (("0", 1.0, "added"), ("1", -1.0, "subtracted")):
        kept = here & (carry[0] == (carry[1].index(value) if value in carry[1] else -2))
        if kept.sum() < 2 * FEWEST_GROUPS:
            continue
        chosen = prompts.take(np.flatnonzero(kept)[: subject.settings.problems]).reading([read])
        found[f"carry.{place} {name}"] = direction_test(
            subject.model, chosen, direction, at=role, doses=[dose], metric="exact_match",
            targets=_shifted(chosen, int(dose)), random_directions=RANDOM, seed=subject.settings.seed,
        )  # fmt: skip
    if here.sum() >= 2 * FEWEST_GROUPS:
        chosen = prompts.take(np.flatnonzero(here)[: subject.settings.problems]).reading([read])
        found[f"carry.{place} projected out"] = direction_test(
            subject.model, chosen, direction, at=role, metric="exact_match", random_directions=RANDOM,
            seed=subject.settings.seed,
        )  # fmt: skip
    return found


def _scaled(direction: Direction, activations: Activations, label: str, depth: int, role: str) -> Direction:
    """The same direction with the length of the gap between the means of label 1 and 0 along it."""
    codes, classes = activations.prompts.coded(label)
    stream = activations.stream()[depth][2]
    rows = torch.arange(len(stream))
    columns = activations.prompts.columns(role)
    along = direction.along(stream[rows, columns.clamp(min=0)].float())
    there = (columns >= 0).numpy()
    means = [float(along[torch.from_numpy(there & (codes == classes.index(c)))].mean()) for c in ("0", "1")]
    return Direction(direction.site, direction.unit * (means[1] - means[0]), direction.source)


def _shifted(prompts: Prompts, by: int) -> Targets:
    """The answers' digits moved by one: what the model should write with a carry more or less."""
    zero = VOCABULARY["0"]
    return Targets((prompts.answers - zero + by) % 10 + zero)


def probe_tables(found: Results) -> dict[str, Any]:
    """Accuracy of every probe at every depth and position with its controls, as JSON."""
    return {f"probe-{_file(name)}": _accuracy(r) for name, r in found.items() if isinstance(r, Probing)}


def _accuracy(result: Probing) -> dict[str, Any]:
    accuracy, selectivity = result.accuracy(), result.selectivity()
    others = {"majority": result.majority, "shuffled labels": result.shuffled, "control task": result.control}
    plain = {name: mean(table, result.groups) for name, table in others.items()}
    rows: list[dict[str, Any]] = []
    for depth, where in enumerate(result.depths):
        for place, position in enumerate(result.positions):
            cell = (depth, place)
            row = {"depth": where, "position": position, "accuracy": accuracy[cell].as_dict()}
            row |= {name: estimate[cell].as_dict() for name, estimate in plain.items()}
            rows.append({**row, "selectivity": selectivity[cell].as_dict()})
    return {
        "about": "share of held-out problems whose label the probe names, by depth and position, beside the commonest "
        "label, shuffled labels and a control task; selectivity: accuracy less that of the control task; p: of no such "
        "difference",
        "label": result.label,
        "classes": list(result.classes),
        "control task keyed on": result.key,
        "rows": rows,
    }


def carry_probes(found: Results) -> Sequence[tuple[str, Probing]]:
    """The study's own probes for carries, of sums and of products."""
    names = [f"{kind}carry.{place}" for place in PLACES for kind in ("", "product ")]
    return [(name, found[name]) for name in names if name in found]
