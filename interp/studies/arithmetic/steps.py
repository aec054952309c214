"""The steps of the study on one model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp.results import fingerprint
from interp.studies.arithmetic.basics import accuracy_step, patching_step
from interp.studies.arithmetic.circuits import circuits_step
from interp.studies.arithmetic.learning import Learning
from interp.studies.arithmetic.learning_figure import plot_learning
from interp.studies.arithmetic.parts import attribution_step, interventions_step, weights_step
from interp.studies.arithmetic.probes import probing_step
from interp.studies.arithmetic.subject import OPERATORS, ArithmeticSubject
from interp.studies.steps import attention_step, lens_step
from interp.studies.study import Picture, Results, Step


def learning_step(record: Mapping[str, Any]) -> Step:
    """What was learned when, as the model's card has it."""

    def pictures(found: Results) -> list[Picture]:
        result: Learning = found["learning"]
        operators = dict.fromkeys(name[0] for name in result.digits)
        return [
            Picture(
                f"learning-{OPERATORS[o]}", f"What was learned when: digits of the {OPERATORS[o]} by sub-task.",
                lambda o=o: plot_learning(result, o), o == "+",
            )
            for o in operators
        ]  # fmt: skip

    return Step(
        "learning",
        lambda report: {"learning": Learning.of(record)},
        fingerprint("learning", record),
        pictures,
        text="Shares of the validation problems' digits that were right while the model trained, from its card.",
    )


def steps_for(subject: ArithmeticSubject) -> list[Step]:
    """The steps that the settings ask for."""
    made = {
        "attention": attention_step,
        "logit-lens": lens_step,
        "patching": patching_step,
        "circuits": circuits_step,
        "interventions": interventions_step,
        "attribution": attribution_step,
        "weights": weights_step,
        "probing": probing_step,
    }
    steps = [accuracy_step(subject), *(make(subject) for name, make in made.items() if subject.settings.wants(name))]
    known = subject.learning if subject.settings.wants("learning") else None
    return steps if known is None else [*steps, learning_step(known)]
