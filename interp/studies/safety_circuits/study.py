"""The whole study: the shipped model with its transcoders, or one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from interp.circuits.formats import load_transcoders
from interp.files import shipped_model
from interp.models.load import info, load_model
from interp.studies.safety_circuits.claims import feature_claims, graph_claims
from interp.studies.safety_circuits.files import write_files, write_plots
from interp.studies.safety_circuits.settings import CircuitSettings
from interp.studies.safety_circuits.steps import (
    causal_step,
    contrast_step,
    features_step,
    graphs_step,
)
from interp.studies.safety_circuits.subject import CircuitSubject
from interp.studies.study import Part, Results, Step, Study
from interp.studies.words import folder_name

NAME = "safety-circuits"
DASHBOARD = "dashboard/index.html"
"""Where `interp.reports.dashboard` writes the pages over the run's files."""
MODEL, TRANSCODERS = "safety-chat", "safety-chat-transcoders"


def safety_circuits(
    settings: CircuitSettings,
    out: Path,
    *,
    device: str | None,
    command: str,
    model: str | None = None,
    transcoders: str | None = None,
) -> Study:
    """The study on the shipped model, or on a model and transcoders of one's own, given together.

    `out` is the run's folder, which the graphs are written to as they are made.
    """
    subject = _subject(settings, device, model or MODEL, transcoders or TRANSCODERS)
    subject.check()
    name = MODEL if model is None else folder_name(model)
    name = f"{name}-model" if name in subject.categories else name
    known = info(subject.model)

    def part(which: str, title: str, about: str, steps: list[Step], said: Any, notes: Sequence[str] = ()) -> Part:
        return Part(
            name=which, title=title, about=about, model=asdict(known), steps=steps, claims=said, notes=notes,
            settings=settings.model_dump(), prompts={"requests": subject.prompts.digest},
        )  # fmt: skip

    about = (
        f"{known.architecture}, {known.n_layers} layers, {known.n_heads} heads, width {known.d_model}, "
        f"{known.n_parameters:,} parameters, {known.dtype} on {known.device}; transcoders of "
        f"{subject.transcoders.layers[0].size:,} features a layer"
    )
    steps = [features_step(subject), contrast_step(subject, name), causal_step(subject, name)]
    parts = [part(name, name, about, steps, feature_claims, [_asked(subject)])]
    for category in subject.categories:
        words = category.replace("_", " ")
        graphs = f"{len(subject.drawn(category))} triples: harmful requests, safe contrasts and benign acts"
        said = partial(graph_claims, subject, category)
        parts.append(part(category, f"Graphs: {words}", graphs, [graphs_step(subject, category, out)], said))

    def further(
        folder: Path, found: Mapping[str, Mapping[str, Results]], done: Sequence[Mapping[str, Any]]
    ) -> dict[str, str]:
        graphs = {category: found[category]["graphs"] for category in subject.categories}
        write_files(subject, found[name], graphs, [claim for one in done for claim in one["claims"]], folder)
        write_plots(folder)
        return {"Dashboard": DASHBOARD}

    return Study(
        name=NAME if model is None else f"{NAME}-{name}",
        title="Safety circuits: which features a model uses on harmful requests, and how they are wired",
        question="Which internal features are about harm and not about alarming words, how are they wired, and does "
        "the refusal hang on them?",
        parts=parts,
        command=command,
        further=further,
    )


def _subject(settings: CircuitSettings, device: str | None, model: str, transcoders: str) -> CircuitSubject:
    loaded = load_model(model, device=device, weights="raw")
    made = load_transcoders(transcoders, dtype=loaded.cfg.dtype)
    own = shipped_model(model) or Path(model)
    return CircuitSubject.of(loaded, own, made, settings)


def _asked(subject: CircuitSubject) -> str:
    refuse, comply = subject.answers
    return f"Asked as {subject.template!r}; refusals begin with {refuse!r}, compliance with {comply!r}."
