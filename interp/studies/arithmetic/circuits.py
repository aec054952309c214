"""Which heads and neurons of an arithmetic model do what: heads by patching, by attention and by sub-task; neurons."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from interp.analyses.ablation import ablation
from interp.analyses.circuits import set_ablation
from interp.analyses.selectivity import Selectivity, selectivity
from interp.datasets.arithmetic import PLACES, SUBTASKS
from interp.datasets.arithmetic_pairs import Kind
from interp.errors import ConfigError, PromptError
from interp.estimates import mean
from interp.figures import plot
from interp.metrics import at_each
from interp.studies.arithmetic.subject import OPERATORS, ArithmeticSubject
from interp.studies.pictures import kept_scores, untrained_scores
from interp.studies.study import Picture, Report, Results, Step
from interp.tensors import Activations
from interp.workflows.discovery import Discovery, Task, patched_heads, specialisation
from interp.workflows.selection import learned_heads

SHOWN = 40
"""Neurons listed for each label, at most."""


def circuits_step(subject: ArithmeticSubject) -> Step:
    """Carry, operator and position heads, heads by sub-task, and neurons that tell carries, digits, operators apart."""
    settings = subject.settings

    def compute(report: Report) -> Results:
        computed: Results = {}
        kinds: list[Kind] = [kind for kind in subject.kinds if kind != "digit"]
        if kinds:
            report("heads that bring the carry or the operator")
            results = {kind: subject.patched(kind, "z", "logit_diff", None) for kind in kinds}
            computed["heads"] = patched_heads(results, seed=settings.seed)
        if not settings.wants("attention"):  # which keeps the scores otherwise
            report("heads by position")
            computed |= kept_scores(*subject.scores(report))
        report("heads by sub-task")
        prompts = subject.more.prompts
        metrics = [m for m in at_each("exact_match", prompts) if m.name.split(" ")[1] in subject.digit_reads]
        broken = ablation(
            subject.model, prompts, kind=settings.ablation, metrics=["exact_match", *metrics], layers=subject.layers,
            seed=settings.seed,
        )  # fmt: skip
        computed["specialisation"] = specialisation(broken, prompts, subtasks(subject), seed=settings.seed)
        for label, (position, read) in neuron_labels(subject).items():
            report(f"neurons for {label}")
            try:
                among = _of_one_operator(subject, label, subject.more)
                found = selectivity(among, label, at=position, layers=subject.layers, seed=settings.seed)
            except PromptError:  # too few problems have the label
                continue
            computed[f"neurons {label}"] = found
            neurons = [(found.layers[i], j) for i, j in found.found().nonzero().tolist()]
            if not neurons:
                continue
            others = _of_one_operator(subject, label, subject.on_prompts).prompts
            asked = others.reading([read]) if read else others
            try:
                asked = asked.take(np.flatnonzero(others.coded(label)[0] >= 0))
                computed[f"without {label}"] = set_ablation(
                    subject.model, asked, neurons, kind=settings.ablation, metrics=["exact_match"], random_sets=10,
                    seed=settings.seed,
                )  # fmt: skip
            except (ConfigError, PromptError):  # so many are selective that no others are left, or no problem is
                continue
        return computed

    return Step(
        "circuits",
        compute,
        subject.key(
            "circuits", settings.ablation, settings.problems, settings.pairs_per_kind, settings.untrained,
            settings.direction, settings.seed, subject.layers, settings.wants("attention"),
        ),
        _pictures,
        text="Heads and neurons for which a task was found on one half of the problems and confirmed on the other.",
    )  # fmt: skip


def _of_one_operator(subject: ArithmeticSubject, label: str, found: Activations) -> Activations:
    """The problems of sums (of the first operator) alone, where all operators would be told apart by the label too."""
    if label == "operator" or len(subject.operators) == 1:
        return found
    return found.take((found.prompts.labels["operator"] == subject.operators[0]).to_numpy())


def subtasks(subject: ArithmeticSubject) -> dict[str, Task]:
    """The sub-tasks of each column, and the operators; matched others have operands of the same lengths.

    What comes in is compared within columns that do, or do not, make a carry: a plain carry (use-carry) with none, one
    through nines (use-nine) with a plain one, none (base-add) with any. What the column makes is compared within
    columns into which a carry does, or does not, come.
    """
    found = {}
    columns = "predict.step.{}.digit" if subject.steps else "predict.answer.{}"
    for sub in SUBTASKS:
        other = "base-add" if sub.startswith("make") else "make-carry"
        for place in PLACES[: subject.digits]:
            read = columns.format(place).removeprefix("predict.")
            name = f"{sub}.{place}"
            label = {"use-carry": f"a carry into {place}", "use-nine": f"nines into {place}"}.get(sub, name)
            if name in subject.more.prompts.labels and read in subject.more.prompts.read_names:
                found[name] = Task(f"exact_match {read}", label, (f"{other}.{place}", "shape"))
    if len(subject.operators) > 1:
        found |= {OPERATORS[o]: Task("exact_match", OPERATORS[o], ("lengths",)) for o in subject.operators}
    return found


def neuron_labels(subject: ArithmeticSubject) -> dict[str, tuple[str, str]]:
    """Labels that neurons may tell apart, where they would have to, and the answer token that hangs on it.

    A carry where the next higher digit is predicted, a digit where it is itself predicted (both among problems of one
    operator), the operator at the equals sign.
    """
    known = subject.more.prompts
    adder = "step.{}.digit" if subject.steps else "answer.{}"
    places = PLACES[: subject.digits]
    found: dict[str, tuple[str, str]] = {}
    for place, above in pairwise(places):
        read = adder.format(above)
        if f"carry.{place}" in known.labels and read in known.read_names:
            found[f"carry.{place}"] = (f"predict.{read}", read)
    for place in places:
        read = adder.format(place)
        if read in known.read_names:
            found[f"answer.{place}"] = (f"predict.{read}", read)
    if len(subject.operators) > 1:
        found["operator"] = ("=", "")
    return found


def _pictures(found: Results) -> list[Picture]:
    made = [
        Picture(
            "specialisation", "Heads by sub-task: what breaks without them more than what is matched to it.",
            lambda: plot(found["specialisation"]), True,
        )
    ]  # fmt: skip
    if "heads" in found:
        made.append(
            Picture("heads", "Heads that bring the carry or the operator.", lambda: plot(found["heads"]), False)
        )
    for name, result in found.items():
        if name.startswith("neurons "):
            label = name.removeprefix("neurons ")
            made.append(
                Picture(
                    f"neurons-{label.replace('.', '-')}", f"Neurons that tell {label} apart.", lambda r=result: plot(r)
                )
            )
    return made


def circuit_tables(found: Results, scored: Results) -> dict[str, Any]:
    """Carry, operator and position heads (from the step that keeps the scores), neurons, heads by sub-task, as JSON."""
    tables: dict[str, Any] = {}
    for kind in ("carry", "operator"):
        if "heads" in found and kind in found["heads"].tasks:
            tables[f"{kind}-heads"] = _listed(found["heads"], kind)
    if "position tracking" in scored["head-scores"].scores:
        rows = learned_heads(scored["head-scores"], untrained_scores(scored), "position tracking")
        tables["position-heads"] = {
            "heads": rows,
            "about": "overlap of a prompt's attention with that of others of its layout, beyond uniform attention; "
            "found: the interval of what it has beyond the best heads of untrained models lies above 0.1",
        }
    tables["selective-neurons"] = {
        name.removeprefix("neurons "): _neurons(result, found.get(f"without {name.removeprefix('neurons ')}"))
        for name, result in found.items()
        if name.startswith("neurons ")
    }
    result: Discovery = found["specialisation"]
    tables["head-specialisation"] = {task: _listed(result, task) for task in result.tasks}
    return tables


def _listed(result: Discovery, task: str) -> dict[str, Any]:
    return {
        "about": f"{result.unit}; control: {result.control_name}; found: q at most {result.level:g} and a difference "
        f"of at least {result.minimum:g} on one half, and again on the other, on which the numbers are estimated",
        "heads": result.rows(task),
    }


def _neurons(result: Selectivity, without: Any) -> dict[str, Any]:
    frame = result.to_frame()
    frame = frame[result.found().reshape(-1).numpy()].sort_values("confirmed_effect", ascending=False)
    made: dict[str, Any] = {
        "about": "effect: eta squared of the activation by the label on one half, with q by permutation and Benjamini "
        "and Hochberg; confirmed on the other half; the drops (of this label's digit, where enough others are left) "
        "are on other problems",
        "position": result.position,
        "tested": result.effect.numel(),
        "found": len(frame),
        "neurons": [
            {
                "neuron": f"L{row.layer}N{row.neuron}",
                "prefers": row.prefers,
                **{c: float(getattr(row, c)) for c in ("effect", "q", "confirmed_effect", "confirmed_p")},
            }
            for row in frame.head(SHOWN).itertuples()
        ],
    }
    if without is not None:
        own, control = without.drop()
        made["drop in exact match without them"] = mean(own, without.groups).as_dict()
        made["without as many others of each layer"] = mean(control, without.groups).as_dict()
    return made
