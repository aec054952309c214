"""The steps of the study: what each computes, and the figures it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from interp.circuits.activity import Activity, feature_activity
from interp.circuits.answer_effects import answer_effects
from interp.circuits.feature_causal import causal_tests
from interp.circuits.feature_contrast import ALL, FeatureContrast, benchmark_contrasts
from interp.circuits.motif_contrast import edge_set_contrast, sets_of_pairs
from interp.circuits.triads import triad_null
from interp.circuits.triples import KINDS
from interp.circuits.usage import feature_usage
from interp.circuits.wiring import LOGIT, Wiring
from interp.figures.features import (
    plot_feature_contrast,
    plot_intervention,
    plot_motif_contrast,
    plot_triads,
    plot_usage,
)
from interp.studies.safety_circuits.graphs import draw_graphs
from interp.studies.safety_circuits.subject import CircuitSubject
from interp.studies.study import Picture, Report, Results, Step

_CHOSEN = 0.2
"""q at which sets of edges are chosen to be tested on other triples."""
GRAPHS = "graphs"
"""Folder of the run with a folder of graphs for each group of prompts."""
Found = Mapping[str, Mapping[str, Results]]


@dataclass(frozen=True, eq=False)
class Shuffled:
    """How many features are confirmed as higher on harm where the labels mean nothing, for each shuffle."""

    confirmed: Float[np.ndarray, " shuffle"]


def group_name(category: str, kind: str) -> str:
    """Of the prompts of a category and kind, as folders and groups are named."""
    return category if kind == KINDS[0] else f"{category}_{kind}"


def features_step(subject: CircuitSubject) -> Step:
    """Every feature on every prompt, and what it does for the answer."""
    settings = subject.settings

    def compute(report: Report) -> Results:
        model, transcoders, prompts = subject.model, subject.transcoders, subject.prompts
        report("activations")
        # Left out is a token that begins every sequence, and nothing where the tokenizer has none.
        bos = model.tokenizer.bos_token_id
        skip = int(bos is not None and bool((prompts.tokens[:, 0] == bos).all()))
        activity = feature_activity(model, transcoders, prompts, skip=skip, memory=settings.memory)
        report("effects on the answer")
        effects = answer_effects(model, transcoders, prompts, activity, *subject.tokens, memory=settings.memory)
        report("intervals")
        usage = feature_usage(
            activity, subject.triples.groups(), effects=effects, seed=settings.seed,
            min_activation=settings.min_activation, min_frequency=settings.min_frequency,
        )  # fmt: skip
        return {"activity": activity, "usage": usage}

    return Step(
        "features", compute,
        subject.key("features", settings.model_dump(include={"min_activation", "min_frequency", "seed"})),
        lambda found: (
            Picture(
                "feature-heatmap", "Features over groups of prompts, by importance: frequency times mean activation.",
                lambda: plot_usage(found["usage"]), headline=True,
            ),
        ),
        title="Features on every prompt",
        text="A prompt counts once, with the feature's largest activation over its tokens. Effects on the answer are "
        "total effects in the linearised model, with attention patterns and norm scales held.",
    )  # fmt: skip


def contrast_step(subject: CircuitSubject, part: str) -> Step:
    """Harmful requests beside their contrasts; the same where labels are shuffled within triples."""
    settings = subject.settings

    def derive(found: Found) -> Results:
        activity: Activity = found[part]["features"]["activity"]
        options = {
            "at": settings.at, "level": settings.level, "min_activation": settings.min_activation,
            "min_frequency": settings.min_frequency, "resamples": settings.resamples,
        }  # fmt: skip
        contrasts = benchmark_contrasts(activity, subject.triples, seed=settings.seed, **options)
        rng = np.random.default_rng(settings.seed)
        counts = []
        for number in range(settings.shuffled):
            mixed = replace(subject.triples, rows=rng.permuted(subject.triples.rows, axis=1))
            null = benchmark_contrasts(activity, mixed, seed=settings.seed + number, **options)
            counts.append(float(len(harm_specific(null))))
        return {**contrasts, "shuffled": Shuffled(np.array(counts))}

    return Step(
        "contrast", lambda report: {},
        subject.key("contrast", settings.model_dump(exclude={"memory"})),
        title="About harm, or about alarming words?",
        text="Discovered on a quarter of the triples, confirmed on half of them against both the safe contrast (the "
        "same focus words) and the benign act (the same object), corrected for all that were discovered (max-T).",
        pictures=lambda found: [
            Picture(
                f"contrast-{name}", f"{name.replace('_', ' ')}: features on harmful requests beside safe contrasts.",
                partial(plot_feature_contrast, one), headline=name == ALL,
            )
            for name, one in found.items() if isinstance(one, FeatureContrast)
        ],
        derive=derive,
    )  # fmt: skip


def harm_specific(found: Results) -> list[int]:
    """Columns of the features that some contrast confirms as higher on harm."""
    contrasts = [one for one in found.values() if isinstance(one, FeatureContrast)]
    return np.flatnonzero(np.any([one.harm_specific for one in contrasts], axis=0)).tolist()


def causal_step(subject: CircuitSubject, part: str) -> Step:
    """The confirmed features switched off and added, on the triples that were kept for this."""
    settings = subject.settings

    def derive(found: Found) -> Results:
        chosen = harm_specific(found[part]["contrast"])
        if not chosen:
            return {}
        tests = causal_tests(
            subject.model, subject.transcoders, subject.prompts, found[part]["features"]["activity"], subject.triples,
            chosen, *subject.tokens, sets=settings.matched, seed=settings.seed, memory=settings.memory,
        )  # fmt: skip
        return {**tests}

    return Step(
        "causal", lambda report: {}, subject.key("causal", settings.model_dump(exclude={"memory"})),
        title="Does the refusal hang on them?",
        text="On a quarter of the triples that neither discovery nor confirmation saw: the confirmed features off on "
        "harmful requests and added on safe ones, beside matched sets, and the refusal direction beside random ones.",
        derive=derive,
        pictures=lambda found: [
            Picture(
                f"causal-{way}", f"{one.what}: change of the log-odds of refusal beside its controls.",
                partial(plot_intervention, one), headline=way == "ablation",
            )
            for way, one in found.items()
        ],
    )  # fmt: skip


def graphs_step(subject: CircuitSubject, category: str, out: Path) -> Step:
    """The graphs of a category's prompts, each with its own check."""
    settings = subject.settings
    options = settings.model_dump(exclude={"memory", "min_frequency", "min_activation", "matched", "shuffled", "at"})

    def compute(report: Report) -> Results:
        found: Results = {}
        for kind in KINDS:
            name = group_name(category, kind)
            rows = subject.triples.rows[subject.drawn(category), KINDS.index(kind)].tolist()
            found[f"scores-{kind}"], found[f"wiring-{kind}"] = draw_graphs(subject, rows, out / GRAPHS / name, report)
        if settings.mine_patterns:
            report("motifs")
            found |= _motifs(subject, category, *(found[f"wiring-{kind}"] for kind in KINDS[:2]))
        return found

    return Step(
        "graphs",
        compute,
        subject.key("graphs", category, options),
        lambda found: [
            Picture("sets", "Sets of edges on both sides, on triples that had no part in the choice.",
                    partial(plot_motif_contrast, found["contrast"]), headline=True),
            Picture("triads", "Triads beside rewired graphs.", partial(plot_triads, found["triads"])),
        ] if "contrast" in found else (),
        title="Graphs and motifs",
        text="Every edge is exact in the linearised model; some features of each graph are switched off and doubled, "
        "with everything else held and in the running model. For motifs positions are collapsed: a node is a feature "
        "of a layer. Sets of edges are sought on half of the triples and tested on the confirmation part; triads are "
        "counted beside copies that keep layers, order and degrees.",
        beside=[out / GRAPHS / group_name(category, kind) for kind in KINDS],
    )  # fmt: skip


def _motifs(subject: CircuitSubject, category: str, harmful: Wiring, safe: Wiring) -> Results:
    """Sets of edges that return, those that tell harm from its contrast, and triads beside rewired graphs."""
    settings = subject.settings
    return {
        "sets": sets_of_pairs(harmful, safe, subject.searched(category), support=settings.support),
        "contrast": edge_set_contrast(
            harmful, safe, subject.searched(category), support=settings.support,
            words=answer_words(subject, harmful, safe), discovery=_CHOSEN, level=subject.motif_level,
            resamples=settings.resamples, seed=settings.seed,
        ),
        "triads": triad_null(harmful, samples=settings.rewired, seed=settings.seed),
    }  # fmt: skip


def answer_words(subject: CircuitSubject, *wirings: Wiring) -> dict[int, str]:
    """The texts of the answers that graphs explain, by token."""
    ids = {int(i) for one in wirings for i in one.number[one.kind == LOGIT]}
    return {i: str(subject.model.tokenizer.decode([i])).strip() for i in sorted(ids)}
