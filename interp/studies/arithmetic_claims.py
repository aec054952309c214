"""What the arithmetic study claims, and the numbers that decide it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from interp.analyses.ablation import Ablation
from interp.analyses.heads import HeadScores
from interp.analyses.logit_lens import LogitLens
from interp.analyses.patching import Patching
from interp.analyses.probing import Probing
from interp.errors import PromptError
from interp.estimates import Estimate, against_population, population, proportion, proportion_difference
from interp.evidence import Claim
from interp.studies.pictures import untrained_scores
from interp.studies.study import Results
from interp.workflows.selection import Chosen, best_patch, best_probe, costliest, learned_head, readable_from

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
_CONFIRMED = "chosen among {} on one half of the problems, estimated on the other"


def claims(found: Mapping[str, Results], operators: str, *, steps: bool) -> list[Claim]:
    """The findings on one model, in the order in which a reader would ask."""
    made = _accuracy(found["accuracy"], operators)
    if "logit-lens" in found:
        made += _lens(found["logit-lens"]["prompts"])
    if "patching" in found:
        made += _patching(found["patching"])
    if "interventions" in found:
        made.append(_needed(found["interventions"]["heads"]))
    if "attention" in found:
        made += _heads(found["attention"], operators, steps)
    if "probing" in found:
        made += [_probed(result) for name, result in found["probing"].items() if name.startswith("carry")]
    return made


def percent(estimate: Estimate) -> str:
    """A share for a sentence; a decimal more where rounding would make it all or nothing."""
    share = float(estimate.value)
    near = 0 < abs(share) < 0.005 or 0.995 <= share < 1
    return f"{share:.1%}" if near else f"{round(100 * share) + 0:d}%" if share == share else "–"


def claim_of(best: Chosen, **words: Any) -> Claim:
    """A claim on what was chosen on one half and estimated on the other."""
    return Claim(effect=best.effect, control=best.control, difference=best.difference, **words)


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


def _lens(lens: LogitLens) -> list[Claim]:
    digits = [name for name in lens.positions if name.startswith("answer.")]
    best = readable_from(lens, digits)
    return [
        claim_of(
            best,
            name="readable",
            statement=f"The answer becomes readable in {best.column}: {percent(best.effect)} of answer digits "
            f"are on top after it, {percent(best.control)} before it.",
            control_name="the depth before",
            minimum=0.25,
            unit="share of answer digits on top of the logit lens",
            note=f"The depth was {_CONFIRMED.format(best.searched)}. The lens reads what is in the output's basis; "
            "earlier layers may know the answer in another form.",
        )
    ]


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
        note=f"The {searched} was {_CONFIRMED.format(best.searched)}. Ratio of means, over pairs that have a control.",
    )


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
        note=f"{result.kind} ablation at every token. The head was {_CONFIRMED.format(best.searched)}. A head that is "
        "not needed may have a stand-in.",
    )


def _probed(result: Probing) -> Claim:
    best = best_probe(result)
    _, _, place = result.label.partition(".")
    return claim_of(
        best,
        name=f"probe: {result.label}",
        statement=f"The carry out of the {place} can be read linearly at {best.column}: "
        f"{percent(best.effect)} of held-out problems.",
        control_name="a control task: random labels for the column's digit pairs",
        minimum=0.1,
        unit="share of problems whose carry the probe names",
        note=f"Depth and position were {_CONFIRMED.format(best.searched)}. Readable is not used: a direction must be "
        "tested by an edit.",
    )


def _heads(found: Results, operators: str, steps: bool) -> list[Claim]:
    others = untrained_scores(found)
    made = []
    for job, best in _learned(found["head-scores"], others).items():
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
                note=f"The head was {_CONFIRMED.format(best.searched)}; each of {len(others)} untrained models chose "
                "its own best head in the same way (the control's interval is where a further one would fall). Where a "
                "head looks is not what it does.",
            )
        )
    return made


def _learned(scores: HeadScores, others: Sequence[HeadScores]) -> dict[str, Chosen]:
    """The best head of every job that the prompts have."""
    found = {}
    for job in scores.scores:
        with suppress(PromptError):
            found[job] = learned_head(scores, others, job)
    return found


def tables(found: Mapping[str, Results]) -> dict[str, Any]:
    """The best head of each job, as JSON."""
    if "attention" not in found:
        return {}
    scores, others = found["attention"]["head-scores"], untrained_scores(found["attention"])
    rows = [
        {
            "job": job,
            "head": f"L{best.layer}H{best.column}",
            "score": best.effect.as_dict(),
            "untrained": best.control.as_dict(),
            "learned": best.difference.as_dict(),
        }
        for job, best in _learned(scores, others).items()
    ]
    return {"heads": rows}
