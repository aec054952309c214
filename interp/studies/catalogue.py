"""The studies by name, and how a model and settings become one."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

from interp.errors import ConfigError, ModelError
from interp.files import shipped_model, shipped_models
from interp.models.load import HookedTransformer, info, load_model
from interp.studies import arithmetic
from interp.studies.arithmetic_claims import claims, tables
from interp.studies.arithmetic_parts import steps_for
from interp.studies.settings import Settings
from interp.studies.study import Part, Study
from interp.studies.text import TextSubject

ARITHMETIC = ("arithmetic-add3", "arithmetic-add3-steps", "arithmetic-mixed")

STUDIES = {
    "arithmetic": "How does a small transformer add? Attention, logit lens and patching on trained models.",
}


def study(name: str, settings: Settings, *, device: str | None, command: str) -> Study:
    """A study by name. Raises ConfigError for an unknown one."""
    if name not in STUDIES:
        raise ConfigError(f"there is no study {name!r}; choose from {', '.join(STUDIES)}")
    parts = []
    for model_name in ARITHMETIC:
        folder = shipped_model(model_name)
        if folder is None:
            raise ModelError(f"the shipped model {model_name} is missing from data/models; train it: see its card")
        parts.append(_part(str(folder), settings, device))
    return Study(
        name="arithmetic",
        title="How a small transformer does arithmetic",
        question="Where do the digits and the carry travel, when is the answer readable, and which heads look where?",
        parts=parts,
        command=command,
    )


def analysis(model: str, settings: Settings, *, device: str | None, command: str) -> Study:
    """The analyses on one model: an arithmetic one made here, or any causal language model with the user's prompts."""
    part = _part(model, settings, device)
    return Study(
        name=f"analyze-{part.name}",
        title=f"Analysis of {part.title}",
        question="What do its heads look at, when does it know the answer, and where does that come from?",
        parts=[part],
        command=command,
    )


def folder_name(model: str) -> str:
    """A plain name for the folder of a model's results, whatever path or hub name the model has."""
    name = Path(model).resolve().name if Path(model).exists() else model.rsplit("/", 1)[-1]
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "model"


def _part(model_name: str, settings: Settings, device: str | None) -> Part:
    model = load_model(model_name, device=device, weights=settings.weights)
    folder = Path(model_name) if Path(model_name).is_dir() else shipped_model(model_name)
    card = arithmetic.read_card(folder) if folder is not None else None
    name = folder_name(model_name)
    known = {"name": name, "title": name, "about": _about(model), "model": asdict(info(model))}
    if card is None:
        subject = TextSubject(model, settings)
        notes = [
            "Verdicts are drawn for arithmetic models only, whose prompts and controls are known. Here are figures."
        ]
        if subject.pairs is not None:
            notes.append(f"Patching: {len(subject.pairs)} pairs; eight or more give an interval.")
        if subject.pairs is None and settings.wants("patching"):
            notes.append("Patching was left out: it needs pairs (pairs: in the YAML).")
        prompts = {"prompts": subject.prompts.digest}
        if subject.pairs is not None:
            prompts["pairs"] = subject.pairs.digest
        return Part(**known, steps=subject.steps(), notes=notes, settings=settings.model_dump(), prompts=prompts)
    made = arithmetic.ArithmeticSubject(model, card, settings)
    notes = []
    if settings.wants("patching") and len(made.operators) > 1 and "+" in made.operators:
        notes.append("Pairs that differ in a digit or a carry are additions.")
    return Part(
        **known,
        steps=steps_for(made),
        claims=lambda found: claims(found, made.operators, steps=made.steps),
        tables=tables,
        notes=notes,
        settings=made.settings.model_dump(),
        prompts={"problems and examples": made.prompts.digest},
    )


def _about(model: HookedTransformer) -> str:
    known = info(model)
    return (
        f"{known.architecture}, {known.n_layers} layers, {known.n_heads} heads, width {known.d_model}, "
        f"{known.n_parameters:,} parameters, {known.weights} weights, {known.dtype} on {known.device}"
    )


def listing() -> dict[str, list[tuple[str, str]]]:
    """Studies and shipped models with a line about each."""
    models = []
    for folder in shipped_models():
        card = arithmetic.read_card(folder) or {}
        right = card.get("exact_match", {})
        line = f"{right['value']:.2%} of {right['n']:,} held-out problems" if right else ""
        models.append((folder.name, line))
    return {"studies": list(STUDIES.items()), "models": models}
