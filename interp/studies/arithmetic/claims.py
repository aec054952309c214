"""What the arithmetic study claims, and the numbers that decide it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from interp.analyses.heads import HeadScores
from interp.analyses.logit_lens import LogitLens
from interp.analyses.patching import Patching
from interp.datasets.arithmetic import PLACES
from interp.errors import PromptError
from interp.estimates import (
    against_population,
    population,
    proportion,
    proportion_difference,
)
from interp.evidence import Claim
from interp.studies.arithmetic.part_claims import part_claims
from interp.studies.pictures import untrained_scores
from interp.studies.study import Results
from interp.studies.words import CONFIRMED, claim_of, percent
from interp.workflows.selection import (
    Chosen,
    best_patch,
    learned_head,
    readable_from,
)

_RELATIVE = {
    "changed": "the token that was changed",
    "partner": "the other digit of that column",
    "last": "the position that predicts the answer digit",
    "operator": "the operator",
    "=": "the equals sign",
}
_DIFFERS = {
    "digit": "Which digit is being added",
    "carry": "Whether a carry comes in",
    "operator": "Which operator is asked for",
}
_JOBS = {
    "own step": "the worked step of the column it is about to write",
    "own column": "the digits of the column it is about to write",
    "next lower column": "the digits of the next lower column, where a carry would come from",
    "operator": "the operator",
}


def claims(found: Mapping[str, Results], operators: str, *, steps: bool, digits: int) -> list[Claim]:
    """The findings on one model, in the order in which a reader would ask."""
    made = _accuracy(found["accuracy"], operators)
    if "logit-lens" in found:
        # Beyond the operands a sum has a 1 or nothing.
        made += _lens(found["logit-lens"]["prompts"], PLACES if "*" in operators else PLACES[:digits])
    if "patching" in found:
        made += _patching(found["patching"])
    if "attention" in found:
        made += _heads(found["attention"], operators, steps)
    return made + part_claims(found)


def _accuracy(found: Results, operators: str) -> list[Claim]:
    result = found["accuracy"]
    right, groups, operator = (x.numpy() for x in (result.right, result.groups, result.operator))
    others = result.untrained.numpy().astype(float)
    unit = "share of problems with every answer token right"
    subjects = {"": np.ones(len(right), dtype=bool)}
    if len(operators) > 1:
        subjects |= {f" of {o}": operator == "+-*".index(o) for o in operators}
    made = []
    for which, here in subjects.items():
        solved = proportion(right[here], groups[here])
        made.append(
            Claim(
                name=f"accuracy{which}",
                statement=f"The model solves problems{which} it has never seen "
                f"({percent(solved)} of {int(here.sum()):,}).",
                effect=solved,
                control=population(others, bounds=(0, 1)),
                control_name="the untrained architecture" + (" on all operators" if which else ""),
                difference=against_population(solved, others, reach=1.0),
                minimum=0.5,
                unit=unit,
                note="With the earlier tokens given, all tokens right is the same as greedy generation right. The "
                f"control's interval is where a further untrained model would fall, after {len(others)} of them"
                + ("; fewer than three decide nothing." if len(others) < 3 else "."),
            )
        )
    columns = operator < 2
    chained = columns & (result.cascade.numpy() > 0)
    if chained.sum() >= 20:
        chain = " or ".join(
            {"+": "through a column of nines", "-": "(as a borrow) through equal digits"}[o]
            for o in operators
            if o != "*"
        )
        hard, easy = (proportion(right[kept], groups[kept]) for kept in (chained, columns & ~chained))
        made.append(
            Claim(
                name="cascades",
                statement=f"A carry that runs on {chain} is no harder ({percent(hard)} right against {percent(easy)}).",
                effect=hard,
                control=easy,
                control_name="problems without such a chain",
                difference=proportion_difference(hard, easy),
                minimum=-0.03,
                unit=unit,
                note="Supported means not worse by more than 3 points.",
            )
        )
    return made


def _lens(lens: LogitLens, places: Sequence[str]) -> list[Claim]:
    """At which depth the answer becomes readable: all digits together, and each by itself."""
    digits = [name for name in lens.positions if name.startswith("answer.")]
    made = []
    for names in (digits, *([name] for name in digits if name.removeprefix("answer.") in places)):
        with suppress(PromptError):  # no problem has the digit
            best = readable_from(lens, names)
            one = names[0] if len(names) == 1 else ""
            made.append(
                claim_of(
                    best,
                    name=f"readable: {one}" if one else "readable",
                    statement=(
                        f"The {one.removeprefix('answer.')} become readable in {best.column}: "
                        f"{percent(best.effect)} are on top after it, {percent(best.control)} before it."
                        if one
                        else f"The answer becomes readable in {best.column}: {percent(best.effect)} of answer digits "
                        f"are on top after it, {percent(best.control)} before it."
                    ),
                    control_name="the depth before",
                    minimum=0.25,
                    unit="share of answer digits on top of the logit lens",
                    note=f"The depth was {CONFIRMED.format(best.searched)}. The lens reads what is in the output's "
                    "basis; earlier layers may know the answer in another form.",
                )
            )
    return made


def _patching(found: Results) -> list[Claim]:
    made: list[Claim] = []
    for name, result in found.items():
        if name.startswith("example-") or name.endswith("by-place") or result.metric != "logit_diff":
            continue
        kind = name.split(".")[0]
        with suppress(PromptError):  # too few pairs of any one layout
            if result.site == "resid_pre":
                layers = [layer for layer in result.layers if layer > 0]
                made += [_place(result, kind, layer, best_patch(result, layer=layer)) for layer in layers]
            elif result.site == "z":
                made.append(_head(result, kind, best_patch(result)))
    return made


def _place(result: Patching, kind: str, layer: int, best: Chosen) -> Claim:
    where = _RELATIVE.get(best.column, best.column)
    return _patched(
        result,
        best,
        f"{kind} before layer {layer}",
        f"{_DIFFERS[kind]}: before layer {layer} the place with most of it is {where}; patching the stream there",
        "position",
    )


def _head(result: Patching, kind: str, best: Chosen) -> Claim:
    return _patched(
        result,
        best,
        f"{kind} head",
        f"{_DIFFERS[kind]}: the head with most of it is L{best.layer}H{best.column}; patching its output alone",
        "head",
    )


def _patched(result: Patching, best: Chosen, name: str, statement: str, searched: str) -> Claim:
    verb = "brings back" if result.direction == "denoising" else "destroys"
    return claim_of(
        best,
        name=name,
        statement=f"{statement} {verb} {percent(best.effect)} of the logit difference.",
        control_name="patching from another pair that differs in it",
        minimum=0.1,
        unit="share of the clean-corrupted logit difference",
        note=f"The {searched} was {CONFIRMED.format(best.searched)}. Ratio of means, over pairs that have a control.",
    )


def _heads(found: Results, operators: str, steps: bool) -> list[Claim]:
    others = untrained_scores(found)
    made = []
    for job, best in learned(found["head-scores"], others).items():
        if job not in _JOBS or (job == "operator" and len(operators) == 1):
            continue
        query = "a worked step" if steps and job != "own step" and job != "operator" else "an answer position"
        made.append(
            claim_of(
                best,
                name=f"head: {job}",
                statement=f"Head L{best.layer}H{best.column} has learned to look from {query} at {_JOBS[job]}: "
                f"{percent(best.effect)} of its attention.",
                control_name="the best heads of untrained models",
                minimum=0.1,
                unit="share of attention",
                note=f"The head was {CONFIRMED.format(best.searched)}; each of {len(others)} untrained models chose "
                "its own best head in the same way (the control's interval is where a further one would fall). Where a "
                "head looks is not what it does.",
            )
        )
    return made


def learned(scores: HeadScores, others: Sequence[HeadScores]) -> dict[str, Chosen]:
    """The best head of every job that the prompts have."""
    found = {}
    for job in scores.scores:
        with suppress(PromptError):
            found[job] = learned_head(scores, others, job)
    return found
