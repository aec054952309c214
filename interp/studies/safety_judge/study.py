"""The whole study: the shipped judge with its checkpoints and its update, or those that earlier stages left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from interp.errors import ConfigError, ModelError
from interp.files import read_json, shipped_model, weights_mark
from interp.models.judge import Judge, load_judge
from interp.models.load import info, untrained
from interp.monitoring.checkpoints import step_of
from interp.studies.safety_judge.claims import claims
from interp.studies.safety_judge.settings import JudgeSettings
from interp.studies.safety_judge.steps import (
    attack_step,
    heads_step,
    paths_step,
    tokens_step,
    training_step,
    update_step,
    verdicts_step,
)
from interp.studies.safety_judge.subject import JudgeSubject
from interp.studies.side_by_side import side_by_side
from interp.studies.study import Part, Step, Study

NAME = "safety-judge"
UPDATE = "safety-judge-update"
NULL_SEED = 1000
"""Seed of the untrained judge that is asked what the trained one is: no other model here has it."""


@dataclass(frozen=True)
class Models:
    """Where the judge and its update are."""

    judge: Path
    update: Path | None
    """An adapter or a whole model; None where there is none."""


def shipped() -> Models:
    """The judge that comes with the library. Raises ModelError where it is missing."""
    judge, update = shipped_model(NAME), shipped_model(UPDATE)
    if judge is None:
        raise ModelError(f"the shipped model {NAME} is missing from data/models; train it: see its card")
    return Models(judge, update)


def safety_judge(settings: JudgeSettings, *, device: str | None, command: str, models: Models | None = None) -> Study:
    """The study on a judge trained by `interp train` (by default the shipped one)."""
    given = shipped() if models is None else models
    judge = load_judge(given.judge, device=device)
    parts = [_main(judge, given, settings, device)]
    if any(settings.wants(name) for name in ("verdicts", "tokens", "heads", "paths")):
        parts.append(_null(judge, settings))
    parts = [part for part in parts if part.steps]
    if not parts:
        raise ConfigError("nothing of what was asked can be done: there are no checkpoints and no update")
    return Study(
        name=NAME,
        title="A safety judge: when it learned, what it looks at, how it is fooled, what an update changed",
        question="When does the judge learn the difference, which layers and heads carry it, which tokens drive a "
        "verdict, which small edits flip it, and what did an update change?",
        parts=parts,
        command=command,
        survey=_survey,
    )


def _main(judge: Judge, models: Models, settings: JudgeSettings, device: str | None) -> Part:
    subject = JudgeSubject(judge, settings)
    saved = {step_of(path) or 0: path for path in sorted((models.judge / "checkpoints").glob("step-*"))}
    if saved:
        saved[int(read_json(models.judge / "card.json")["steps_trained"])] = models.judge
    steps: list[Step] = []
    notes = []
    if settings.wants("training") and saved:
        steps.append(training_step(subject, saved, [f"{path.name} {weights_mark(path)}" for path in saved.values()]))
    makers = {"verdicts": verdicts_step, "tokens": tokens_step, "heads": heads_step, "paths": paths_step,
              "attack": attack_step}  # fmt: skip
    steps += [make(subject) for name, make in makers.items() if settings.wants(name)]
    update = models.update
    if settings.wants("update") and update is not None:
        steps.append(update_step(subject, lambda: _updated(update, models.judge, device), weights_mark(update)))
    elif settings.wants("update"):
        notes.append("There is no update to compare with; the stage update makes one.")
    return _part(subject, NAME, "Trained on requests with a known rule", steps, notes)


def _updated(update: Path, judge: Path, device: str | None) -> Judge:
    made_on = read_json(update / "card.json").get("base_weights") if (update / "card.json").is_file() else None
    if made_on is not None and made_on != weights_mark(judge):
        raise ModelError(f"{update} was trained on other weights than those of {judge}; train the update again")
    if (update / "adapter_config.json").is_file():
        return load_judge(update, device=device, base=judge)
    return load_judge(update, device=device)


def _null(judge: Judge, settings: JudgeSettings) -> Part:
    """The same questions to a judge that was never trained: none of its findings may say that something was learned."""
    (model,) = untrained(judge.model, [NULL_SEED])
    subject = JudgeSubject(replace(judge, model=model), settings)
    steps = [verdicts_step(subject)] if settings.wants("verdicts") else []
    makers = {"tokens": tokens_step, "heads": heads_step, "paths": paths_step}
    steps += [make(subject, pictures=False) for name, make in makers.items() if settings.wants(name)]
    part = _part(
        subject, "untrained", "Freshly drawn weights: the null of everything that is said to be learned", steps, ()
    )
    return replace(part, folded=True)


def _part(subject: JudgeSubject, name: str, about: str, steps: Sequence[Step], notes: Sequence[str]) -> Part:
    known = info(subject.judge.model)
    return Part(
        name=name,
        title=name,
        about=f"{about}; {known.architecture}, {known.n_layers} layers, {known.n_heads} heads, width {known.d_model}, "
        f"{known.n_parameters:,} parameters, {known.dtype} on {known.device}",
        model=asdict(known),
        steps=steps,
        claims=claims,
        notes=notes,
        settings=subject.settings.model_dump(mode="json"),
        prompts={"explained": subject.prompts.digest},
    )


def _survey(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The findings on the judge beside those on an untrained one."""
    if len(parts) < 2 or not any(part["claims"] for part in parts):
        return []
    table = side_by_side(parts)
    return [
        {
            **table,
            "title": "Every finding on the judge and on an untrained one",
            "text": "Effect less control with its 95 % interval, and the verdict. What is said to be learned must not "
            "be found in the untrained judge. A dash: not asked there.",
        }
    ]
