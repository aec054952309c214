"""The claims of the study, each with the number that could have said the opposite."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from interp.circuits.feature_causal import Intervention
from interp.circuits.feature_contrast import FeatureContrast
from interp.circuits.triples import KINDS
from interp.estimates import against_population, constant, mean, population
from interp.evidence import Claim
from interp.studies.safety_circuits.graphs import GraphScores
from interp.studies.safety_circuits.steps import Shuffled, harm_specific
from interp.studies.safety_circuits.subject import CircuitSubject
from interp.studies.study import Results

_ENOUGH = 5
"""Confirmed features from which on there is something to study."""


def claims(subject: CircuitSubject, found: Mapping[str, Results]) -> list[Claim]:
    """All that the finished steps can say."""
    made = [_confirmed(found["contrast"])]
    made += [one.claim() for one in found["causal"].values() if isinstance(one, Intervention)]
    scores = [
        found[f"graphs-{category}"][f"scores-{kind}"] for category in subject.categories for kind in KINDS
    ]  # fmt: skip
    made.append(_linear(scores))
    if subject.settings.mine_patterns:
        made += [_motifs(category, found[f"motifs-{category}"]) for category in subject.categories]
    return made


def _confirmed(found: Results) -> Claim:
    contrasts = [one for one in found.values() if isinstance(one, FeatureContrast)]
    null: Shuffled = found["shuffled"]
    names = [contrasts[0].names[i] for i in harm_specific(found)]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    effect = constant(len(names), len(contrasts[0].part))
    return Claim(
        name="features about harm",
        statement=f"{len(names)} features are higher on harmful requests than on safe ones with the same words and on "
        f"benign acts on the same objects{': ' + shown if names else ''}.",
        effect=effect,
        control=population(null.confirmed, bounds=(0, np.inf)),
        control_name=f"{len(null.confirmed)} times labels shuffled within triples",
        difference=against_population(effect, null.confirmed),
        minimum=_ENOUGH - 1,
        unit="features",
        note="Discovered on a quarter of the triples and confirmed on half of them, corrected for all that were "
        "discovered (max-T) and for the number of contrasts.",
    )


def _linear(scores: list[GraphScores]) -> Claim:
    """Whether what graphs predict is what the running model does."""
    predicted = np.concatenate([one.predicted for one in scores])
    actual = np.concatenate([one.actual for one in scores])
    own = _signs(predicted, actual)
    other = _signs(np.roll(predicted, 1, axis=0), actual)
    error = float(np.nanmax(np.concatenate([one.frozen_error for one in scores])))
    folded = float(np.nanmean(np.concatenate([one.folded for one in scores])))
    replaced = np.concatenate([one.replacement for one in scores])
    return Claim(
        name="graphs hold in the running model",
        statement=f"Switching a feature off, or doubling it, moves the answer in the running model as its graph says "
        f"(correlation within a prompt {float(np.nanmean(own)):.2f}); with everything else held the edges are off by "
        f"at most {error:.0e}.",
        effect=mean(own),
        control=mean(other),
        control_name="another prompt's predictions",
        difference=mean(own - other),
        minimum=0.0,
        unit="correlation of predicted and real changes within a prompt",
        note=f"{len(own)} graphs; of their influence {np.nanmean(replaced):.0%} begins at tokens and not at errors; "
        f"the cap folded {folded:.0%} of the features' influence into errors.",
    )


def _signs(predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Correlation of each row's predicted and real changes; nan where one of them does not vary."""
    there = ~(np.isnan(predicted) | np.isnan(actual))
    a, b = (np.where(there, part, np.nan) for part in (predicted, actual))
    a, b = (part - np.nanmean(part, axis=1, keepdims=True) for part in (a, b))
    size = np.sqrt(np.nansum(a**2, 1) * np.nansum(b**2, 1))
    return np.divide(np.nansum(a * b, 1), size, out=np.full(len(a), np.nan), where=size > 0)


def _motifs(category: str, found: Results) -> Claim:
    contrast = found["contrast"]
    confirmed = np.flatnonzero(contrast.confirmed)
    one, other = contrast.sides()
    words = category.replace("_", " ")
    if not len(contrast.motifs):
        nothing = constant(float("nan"))
        return Claim(
            "motifs", f"No set of edges is frequent enough in {words} to be tested.", nothing, nothing,
            "safe contrasts", nothing, 0.0, "share of prompts",
        )  # fmt: skip
    difference = contrast.difference()
    order = np.argsort(-np.abs(np.nan_to_num(difference.value)))
    best = int(next((i for i in order if i in set(confirmed.tolist())), order[0]))
    sign = np.sign(float(difference.value[best])) or 1.0
    shown = difference[best]
    ends = sorted((sign * float(shown.low), sign * float(shown.high)))
    flipped = type(shown).single(sign * float(shown.value), *ends, p=float(shown.p), n=int(shown.n))
    first, second = (one[best], other[best]) if sign > 0 else (other[best], one[best])
    sides = contrast.names if sign > 0 else contrast.names[::-1]
    return Claim(
        name=f"motifs of {words}",
        statement=f"{len(confirmed)} sets of edges tell {words} from its safe contrasts; {contrast.motifs[best]} is in "
        f"{float(first.value):.0%} of {sides[0]} and {float(second.value):.0%} of {sides[1]}.",
        effect=first,
        control=second,
        control_name=sides[1],
        difference=flipped,
        minimum=0.0,
        unit="share of prompts",
        also={f"confirmed at a family-wise {contrast.level:g} on triples that did not choose it": bool(len(confirmed))},
        note=f"{len(contrast.motifs)} sets were sought on the discovery part and {int(contrast.discovered.sum())} "
        "tested on the others.",
    )
