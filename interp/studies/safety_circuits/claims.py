"""The claims of the study, each with the number that could have said the opposite."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from interp.circuits.feature_causal import Intervention
from interp.circuits.feature_contrast import FeatureContrast
from interp.circuits.motif_contrast import MotifContrast
from interp.circuits.triples import KINDS
from interp.estimates import against_population, constant, mean, population, share_change
from interp.evidence import Claim
from interp.studies.safety_circuits.graphs import GraphScores
from interp.studies.safety_circuits.steps import Shuffled, harm_specific
from interp.studies.safety_circuits.subject import CircuitSubject
from interp.studies.study import Results

_AGREES = 0.5
"""Correlation above which graphs are said to hold in the running model."""
_ENOUGH = 5
"""Confirmed features from which on there is something to study."""


def feature_claims(found: Mapping[str, Results]) -> list[Claim]:
    """What contrasts and interventions say."""
    tests = [one.claim() for one in found["causal"].values() if isinstance(one, Intervention)]
    return [_confirmed(found["contrast"]), *tests]


def graph_claims(subject: CircuitSubject, category: str, found: Mapping[str, Results]) -> list[Claim]:
    """What the graphs of a category say, and the motifs in them."""
    had = found["graphs"]
    groups = np.tile(np.arange(len(subject.drawn(category))), len(KINDS))
    made = [_linear([had[f"scores-{kind}"] for kind in KINDS], groups)]
    return [*made, _motifs(category, had)] if "contrast" in had else made


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
        "discovered (max-T) and for the number of contrasts."
        + "".join(f" {one.category.replace('_', ' ')}: {one.why_not}." for one in contrasts if one.why_not),
    )


def _linear(scores: list[GraphScores], groups: NDArray[np.int64]) -> Claim:
    """Whether what graphs predict is what the running model does."""
    predicted, actual = (np.concatenate([getattr(one, name) for one in scores]) for name in ("predicted", "actual"))
    own = _signs(predicted, actual)
    other = _signs(np.roll(predicted, 1, axis=0), actual)
    there = ~(np.isnan(predicted) | np.isnan(actual))
    size = float(np.abs(predicted[there]).sum() / np.abs(actual[there]).sum())
    error = float(np.nanmax(np.concatenate([one.frozen_error for one in scores])))
    folded = float(np.nanmean(np.concatenate([one.folded for one in scores])))
    replaced = np.concatenate([one.replacement for one in scores])
    return Claim(
        name="graphs hold in the running model",
        statement=f"Switching a feature off, or doubling it, moves the answer of the running model as its graph says: "
        f"correlation within a prompt {float(np.nanmean(own)):.2f}, predicted changes {size:.2g} times as large as "
        f"real ones. With everything else held, edges of these features are off by at most {error:.0e} of the largest.",
        effect=mean(own, groups),
        control=mean(other, groups),
        control_name="another prompt's predictions",
        difference=mean(own - other, groups),
        minimum=_AGREES,
        unit="correlation of predicted and real changes within a prompt",
        note=f"{len(own)} graphs; of their influence {np.nanmean(replaced):.0%} begins at tokens and not at errors; "
        f"the cap folded {folded:.0%} of the features' influence into errors. The edges are exact in the linearised "
        "model; attention, norms and other features answer back in the running one.",
    )


def _signs(predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Correlation of each row's predicted and real changes; nan where one of them does not vary."""
    there = ~(np.isnan(predicted) | np.isnan(actual))
    a, b = (np.where(there, part, np.nan) for part in (predicted, actual))
    a, b = (part - np.nanmean(part, axis=1, keepdims=True) for part in (a, b))
    size = np.sqrt(np.nansum(a**2, 1) * np.nansum(b**2, 1))
    return np.divide(np.nansum(a * b, 1), size, out=np.full(len(a), np.nan), where=size > 0)


def _motifs(category: str, found: Results) -> Claim:
    contrast: MotifContrast = found["contrast"]
    words, tested = category.replace("_", " "), int((~contrast.searched).sum())
    if not contrast.discovered.any():
        nothing = constant(float("nan"))
        return Claim(
            f"motifs of {words}",
            f"No set of edges of {words} could be tested: on {int(contrast.searched.sum())} triples none of "
            f"{len(contrast.motifs)} told harmful requests from their safe contrasts.",
            nothing, nothing, "safe contrasts", nothing, 0.0, "share of prompts",
        )  # fmt: skip
    confirmed = np.flatnonzero(contrast.confirmed)
    change = contrast.first - contrast.second
    # Chosen on the triples that were searched, so that the estimate on the others is of no chosen one.
    chosen = np.where(contrast.discovered, np.abs(change[contrast.searched].mean(0)), -1)
    best = int(chosen.argmax())
    way = float(np.sign(change[contrast.searched].mean(0)[best]))
    one, other = contrast.sides()
    first, second = (one[best], other[best]) if way > 0 else (other[best], one[best])
    sides = contrast.names if way > 0 else contrast.names[::-1]
    kept = ~contrast.searched
    patterns = len(np.unique(np.concatenate([contrast.first, contrast.second])[:, confirmed], axis=1).T)
    return Claim(
        name=f"motifs of {words}",
        statement=f"{len(confirmed):,} sets of edges ({patterns} that differ in their prompts) tell {words} from its "
        f"safe contrasts; {contrast.motifs[best]} is in {float(first.value):.0%} of {sides[0]} and "
        f"{float(second.value):.0%} of {sides[1]}.",
        effect=first,
        control=second,
        control_name=sides[1],
        difference=share_change(way * change[kept, best], contrast.groups[kept]),
        minimum=0.0,
        unit="share of prompts",
        also={f"some are confirmed at a level of {contrast.level:.2g} on {tested} triples": len(confirmed) > 0 or None},
        note=f"{len(contrast.motifs):,} sets were sought on {int(contrast.searched.sum())} triples and "
        f"{int(contrast.discovered.sum()):,} tested on the others; shown is the one with the largest difference on the "
        "triples that were searched, estimated on the others."
        + (f" {contrast.left_out:,} more sets were frequent and beyond the cap." if contrast.left_out else ""),
    )
