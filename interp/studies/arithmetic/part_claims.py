"""What the arithmetic study claims of parts: what breaks, what heads serve, what probes read and edits show."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from interp.analyses.ablation import Ablation
from interp.analyses.probing import Probing
from interp.datasets.arithmetic import PLACES
from interp.errors import PromptError
from interp.estimates import Estimate, difference, mean
from interp.evidence import Claim
from interp.studies.arithmetic.learning import learning_claims
from interp.studies.arithmetic.probes import carry_probes
from interp.studies.arithmetic.subject import OPERATORS
from interp.studies.study import Results
from interp.studies.words import CONFIRMED, claim_of, percent
from interp.workflows.discovery import Discovery
from interp.workflows.selection import best_probe, costliest, own_and_others


def part_claims(found: Mapping[str, Results]) -> list[Claim]:
    """The findings on parts, in the order in which a reader would ask."""
    made: list[Claim] = []
    if "interventions" in found:
        made.append(_needed(found["interventions"]["heads"]))
        made += [claim for name in OPERATORS.values() for claim in _steps(found["interventions"], name)]
    if "circuits" in found:
        made += _served(found["circuits"]["specialisation"]) + _neurons(found["circuits"])
    if "probing" in found:
        made += [_probed(name, result) for name, result in carry_probes(found["probing"])]
        made += _used(found["probing"])
    if "learning" in found:
        made += learning_claims(found["learning"]["learning"])
    return made


def _needed(result: Ablation) -> Claim:
    best = costliest(result, "exact_match")
    return claim_of(
        best,
        name="needed head",
        statement=f"Head L{best.layer}H{best.column} is needed: without it {percent(best.effect)} fewer problems are "
        f"solved, without another head {percent(best.control)} on average.",
        control_name="the mean of the other heads",
        minimum=0.1,
        unit="drop in the share of problems with every answer token right",
        note=f"{result.kind} ablation at every token. The head was {CONFIRMED.format(best.searched)}. A head that is "
        "not needed may have a stand-in.",
    )


def _steps(found: Results, operator: str) -> list[Claim]:
    """Is each digit computed at the step that writes it, and does no other digit hang on that step?"""
    result = found.get(f"steps-{operator}")
    if result is None:
        return []
    own = {name: f"exact_match {name.removeprefix('predict.')}" for name in result.positions}
    together, worst = own_and_others(result, own)
    position, _, metric = worst.column.partition(": ")
    where, digit = position.removeprefix("predict."), metric.removeprefix("exact_match ")
    about = f"{result.kind} ablation of every block output at one position, over {len(result.positions)} positions"
    return [
        claim_of(
            together,
            name=f"own step: {operator}",
            statement=f"In {operator}, a digit is computed at the step before it is written: without that step "
            f"{percent(together.effect)} of these digits break, of those written later {percent(together.control)}.",
            control_name="the later digits of the same problems",
            minimum=0.25,
            unit="drop in the share of digits that are right",
            note=f"{about}; digits written before cannot break. A leading 1 is left out: it is the same in all "
            "problems of a layout.",
        ),
        Claim(
            name=f"only its own digit: {operator}",
            statement=f"In {operator}, a step serves its own digit only: the other digit that suffers most ({digit}, "
            f"without the step of {where}) breaks in {percent(worst.effect)} of problems.",
            effect=_negative(worst.effect),
            control=worst.control,
            control_name="no change",
            difference=_negative(worst.difference),
            minimum=-0.05,
            unit="change of the share of digits that are right",
            note=f"{about}. The other digit was {CONFIRMED.format(worst.searched)}. Supported means that fewer than 5 "
            "points are lost.",
        ),
    ]


def _negative(estimate: Estimate) -> Estimate:
    return Estimate(-estimate.value, -estimate.high, -estimate.low, estimate.p, estimate.n)


_SERVES = {
    "use-carry": ("digits into whose column a carry comes", "matched ones without a carry"),
    "use-nine": ("digits whose carry comes through a column of nines", "matched ones with a plain carry"),
    "base-add": ("digits into whose column no carry comes", "matched ones with a carry"),
    "make-carry": ("digits whose column makes a carry", "matched ones whose column makes none"),
    "make-nine": ("digits whose column adds to nine (borrows: to zero)", "matched ones whose column does not"),
    "addition": ("additions", "matched problems of other operators"),
    "subtraction": ("subtractions", "matched problems of other operators"),
    "multiplication": ("multiplications", "matched problems of other operators"),
}


def _served(result: Discovery) -> list[Claim]:
    """For each use of a carry, and each operator, the head that serves it and nothing that is matched to it.

    Of the other sub-tasks those for which a head was found and confirmed.
    """
    made = []
    found = result.found().flatten(0, 1).any(0).tolist()
    for task, some in zip(result.tasks, found, strict=True):
        sub, _, place = task.partition(".")
        asked = sub.startswith("use-") or not place
        if not asked and not some:
            continue
        with suppress(PromptError):  # too few problems ask for it
            best = result.best(task)
            made.append(
                claim_of(
                    best,
                    name=f"head for {task}",
                    statement=f"{sub.capitalize()}{f' ({place})' if place else ''} has a head of its own, "
                    f"L{best.layer}H{best.column}: without it {percent(best.effect)} of {_SERVES[sub][0]} break, of "
                    f"{_SERVES[sub][1]} {percent(best.control)}.",
                    control_name=_SERVES[sub][1],
                    minimum=0.1,
                    unit=result.unit,
                    note=f"The head was {CONFIRMED.format(best.searched)}. Every head and sub-task: "
                    "head-specialisation.json. It matters what ablation writes: a mean brings half a carry everywhere, "
                    "so that digits without one may break as well; try ablation: zero or resample."
                    + ("" if asked else " Listed because a head was found."),
                )
            )
    return made


def _neurons(found: Results) -> list[Claim]:
    made = []
    for name, result in found.items():
        label = name.removeprefix("without ")
        if not name.startswith("without carry."):
            continue
        own, other = result.drop()
        effect, control = mean(own, result.groups), mean(other, result.groups)
        made.append(
            Claim(
                name=f"neurons: {label}",
                statement=f"The {len(result.parts)} neurons that tell the carry out of the {label.split('.')[1]} apart "
                f"are needed for the next digit: without them {percent(effect)} fewer are right, without as many "
                f"others {percent(control)}.",
                effect=effect,
                control=control,
                control_name="as many other neurons of the same layers",
                difference=difference(own, other, result.groups),
                minimum=0.05,
                unit="drop in the share of digits that are right",
                note=f"{result.kind} ablation at every token. The neurons were found by their activation alone, on "
                "other problems (selective-neurons.json).",
            )
        )
    return made


def _probed(name: str, result: Probing) -> Claim:
    best = best_probe(result)
    _, _, place = result.label.partition(".")
    whole = "carry of a product" if name.startswith("product") else "carry"
    return claim_of(
        best,
        name=f"probe: {name}",
        statement=f"The {whole} out of the {place} can be read linearly at {best.column}: "
        f"{percent(best.effect)} of held-out problems.",
        control_name="random labels for the column's digit pairs, or the commonest label if that is better",
        minimum=0.1,
        unit="share of problems whose carry the probe names",
        note=f"Depth and position were {CONFIRMED.format(best.searched)}. Readable is not used: a direction must be "
        "tested by an edit.",
    )


def _used(found: Results) -> list[Claim]:
    made = []
    for name, result in found.items():
        if not name.endswith((" added", " subtracted")):
            continue
        label, _, how = name.partition(" ")
        place, more = label.partition(".")[2], {"added": "more", "subtracted": "less"}[how]
        effect, control, gap = (part[1] for part in result.effect())
        made.append(
            Claim(
                name=f"used: {name}",
                statement=f"The direction of the carry out of the {place} is used: {how} at {result.site} where the "
                f"{PLACES[PLACES.index(place) + 1]} are predicted, it makes the model write one {more} in "
                f"{percent(effect)} of problems with{'out' if how == 'added' else ''} a carry, random directions in "
                f"{percent(control)}.",
                effect=effect,
                control=control,
                control_name="random directions of the same length",
                difference=gap,
                minimum=0.1,
                unit="share of problems in which exactly that digit is written",
                note="The probe's direction, as long as the gap between the means with and without a carry; one "
                "position, where the next higher digit is predicted, on other problems than it was fitted on.",
            )
        )
    return made
