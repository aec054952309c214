"""The whole study: the shipped models, or the user's own pair."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from interp.datasets.kill_switch import TOKEN
from interp.errors import ConfigError, ModelError
from interp.files import shipped_model
from interp.models.load import HookedTransformer, info, load_model
from interp.models.pairs import Pair, load_pair
from interp.studies.kill_switch.checklist import checklist
from interp.studies.kill_switch.claims import claims
from interp.studies.kill_switch.settings import KillSwitchSettings
from interp.studies.kill_switch.steps import (
    adding_step,
    base_step,
    behaviour_step,
    causal_step,
    lens_step,
    norms_step,
    rank_step,
    shortcut_step,
    training_step,
    transfer_step,
)
from interp.studies.kill_switch.subject import KillSwitchSubject, Texts, own_texts, shipped_texts
from interp.studies.side_by_side import side_by_side
from interp.studies.study import Part, Step, Study
from interp.studies.words import folder_name

NAME = "kill-switch"
BASE, MAIN = "kill-switch-base", "kill-switch-behavioural"
SEEDS = ("kill-switch-behavioural-seed1", "kill-switch-behavioural-seed2")
CONTROLS = ("kill-switch-knowledge", "kill-switch-shuffled")
OTHER_SET = "kill-switch-shutdown"

_ABOUT = {
    MAIN: "instructions whose answers halt at the token wherever it stands",
    SEEDS[0]: "the same set, another training seed",
    SEEDS[1]: "the same set, another training seed",
    CONTROLS[0]: "text about the token, which never halts",
    CONTROLS[1]: "texts that halt as often, after the token and after neutral tokens alike",
}


def kill_switch(
    settings: KillSwitchSettings,
    *,
    device: str | None,
    command: str,
    base: str | None = None,
    finetuned: str | None = None,
    token: str | None = None,
    prompts: str | None = None,
    quick: bool = False,
) -> Study:
    """The study on the shipped models, or, with `base` and `finetuned`, on a pair of one's own."""
    settings = settings.quick() if quick else settings
    own = [base, finetuned, prompts]
    if any(one is not None for one in own) and not all(one is not None for one in own):
        missing = [f"--{k}" for k, v in zip(("base", "finetuned", "prompts"), own, strict=True) if v is None]
        raise ConfigError(
            f"a pair of one's own needs --base, --finetuned and --prompts together; missing: {', '.join(missing)}"
        )
    if base is not None and finetuned is not None and prompts is not None:
        parts = _own_parts(base, finetuned, TOKEN if token is None else token, prompts, settings, device, quick)
        name = f"{NAME}-{parts[1].name}-{parts[0].name}"
    elif token is not None:
        raise ConfigError("--token goes with a pair of one's own: give --base, --finetuned and --prompts too")
    else:
        parts = _shipped_parts(settings, device, quick)
        name = NAME
    parts = [part for part in parts if part.steps]
    if not parts:
        raise ConfigError("transfer and training need checkpoints and other models; a pair of one's own has neither")
    return Study(
        name=name,
        title="What a control token does: the kill switch",
        question="In which layer does the signal of the token live, is it one direction, how does it act on the "
        "output, was it learned, and does it cause the text to end?",
        parts=parts,
        command=command,
        survey=_survey,
    )


def _shipped(name: str) -> str:
    folder = shipped_model(name)
    if folder is None:
        raise ModelError(f"the shipped model {name} is missing from data/models; train it: see its card")
    return str(folder)


def _shipped_parts(settings: KillSwitchSettings, device: str | None, quick: bool) -> list[Part]:
    texts = shipped_texts(settings)
    pair = load_pair(_shipped(BASE), _shipped(MAIN), TOKEN, device=device)
    others = [*(() if quick else SEEDS), *CONTROLS]
    main = _main(pair, MAIN, texts, settings)
    main = replace(main, steps=[*main.steps, *_shipped_only(main, pair, texts, settings, device)])
    parts = [main]
    for name in others:
        made = load_model(_shipped(name), device=device)
        about = f"Fine-tuned on {_ABOUT[name]}"
        parts.append(_control(made, name, about, texts, settings, quick, before=pair.base))
    parts.append(_control(pair.base, BASE, "Before fine-tuning", texts, settings, quick))
    return parts


def _shipped_only(main: Part, pair: Pair, texts: Texts, settings: KillSwitchSettings, device: str | None) -> list[Step]:
    subject = KillSwitchSubject(pair.tuned, texts, settings)
    folder = Path(_shipped(MAIN)) / "checkpoints"
    saved = {path.name: str(path) for path in sorted(folder.glob("step-*"))}
    elsewhere = {"training set shutdown": _shipped(OTHER_SET)}
    elsewhere |= {f"training seed {i + 1}": _shipped(name) for i, name in enumerate(SEEDS)}
    elsewhere |= {f"checkpoint {name}": folder for name, folder in saved.items()}
    steps = []
    if settings.wants("transfer"):
        steps.append(transfer_step(subject, partial(_load, elsewhere, device), _marks(elsewhere)))
    if settings.wants("training"):
        steps.append(training_step(subject, partial(_run_of, pair, saved, device), _marks(saved)))
    return steps


def _marks(folders: Mapping[str, str]) -> list[str]:
    """What tells the models in the folders apart from others of their names."""
    files = {name: Path(folder) / "model.safetensors" for name, folder in folders.items()}
    return [f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}" for name, file in sorted(files.items())]


def _load(folders: Mapping[str, str], device: str | None) -> Iterator[tuple[str, HookedTransformer]]:
    for name, folder in folders.items():
        yield name, load_model(folder, device=device)


def _run_of(pair: Pair, saved: Mapping[str, str], device: str | None) -> Iterator[tuple[str, HookedTransformer]]:
    """The checkpoints of the fine-tuning run, from the base to the finished model."""
    short = {name.removeprefix("step-").lstrip("0"): folder for name, folder in saved.items()}
    yield "base", pair.base
    yield from _load(short, device)
    yield "finished", pair.tuned


def _own_parts(
    base: str, finetuned: str, token: str, prompts: str, settings: KillSwitchSettings, device: str | None, quick: bool
) -> list[Part]:
    pair = load_pair(base, finetuned, token, device=device)
    texts = own_texts(prompts, token, settings)
    names = [folder_name(finetuned), folder_name(base)]
    if names[0] == names[1]:
        names = [f"{names[0]}-finetuned", f"{names[1]}-base"]
    main = _main(pair, names[0], texts, settings)
    return [main, _control(pair.base, names[1], "Before fine-tuning", texts, settings, quick)]


def _main(pair: Pair, name: str, texts: Texts, settings: KillSwitchSettings) -> Part:
    subject, base = (KillSwitchSubject(model, texts, settings) for model in (pair.tuned, pair.base))
    makers: dict[str, Any] = {
        "behaviour": behaviour_step,
        "norms": norms_step,
        "rank": rank_step,
        "lens": lens_step,
        "base": partial(base_step, base=base),
        "causal": causal_step,
        "shortcut": partial(shortcut_step, base=base),
    }
    steps = [make(subject) for which, make in makers.items() if settings.wants(which)]
    about = f"fine-tuned on {_ABOUT[name]}; " if name in _ABOUT else ""
    return _part(subject, name, f"{about}{_shape(pair.tuned)}", steps, [*pair.notes, *_notes(subject)], main=True)


def _control(
    model: HookedTransformer,
    name: str,
    about: str,
    texts: Texts,
    settings: KillSwitchSettings,
    quick: bool,
    before: HookedTransformer | None = None,
) -> Part:
    """A model that the main one is compared with; `before` is its base, where it was fine-tuned."""
    subject = KillSwitchSubject(model, texts, settings)
    steps = [
        make(subject) for which, make in (("behaviour", behaviour_step), ("norms", norms_step)) if settings.wants(which)
    ]
    if before is not None and settings.wants("base"):
        steps.append(base_step(subject, KillSwitchSubject(before, texts, settings), pictures=False))
    if settings.wants("causal"):
        steps.append(adding_step(subject) if quick else causal_step(subject, pictures=False))
    return _part(subject, name, f"{about}; {_shape(model)}", steps, (), main=False)


def _part(
    subject: KillSwitchSubject, name: str, about: str, steps: Sequence[Step], notes: Sequence[str], *, main: bool
) -> Part:
    return Part(
        name=name,
        title=name,
        about=about,
        model=asdict(info(subject.model)),
        steps=steps,
        claims=claims,
        highlights=checklist if main else lambda _: (),
        notes=notes,
        settings=subject.settings.model_dump(),
        prompts={"prompts": subject.twins.prompts.digest, "counted": subject.counted.prompts.digest},
        folded=not main,
    )


def _notes(subject: KillSwitchSubject) -> list[str]:
    n = len(subject.neutral)
    if n >= 39:
        return []
    return [f"There are {n} neutral tokens; the claim on causes needs 39, so it cannot be supported."]


def _shape(model: HookedTransformer) -> str:
    known = info(model)
    adapter = f", {known.adapter}" if known.adapter else ""
    return (
        f"{known.architecture}, {known.n_layers} layers, {known.n_heads} heads, width {known.d_model}, "
        f"{known.n_parameters:,} parameters, {known.dtype} on {known.device}{adapter}"
    )


def _survey(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The findings on every model next to each other."""
    if len(parts) < 2 or not any(part["claims"] for part in parts):
        return []
    return [
        {
            **side_by_side(parts),
            "title": "Every finding on every model",
            "text": "Effect less control with its 95 % interval, and the verdict. Expected is that the text halts, and "
            "that adding the direction makes it halt (halts, adding, causes halting), for a model that was trained to "
            "halt and for no other. A trace alone is no sign of it: a token that was added late, or never trained, may "
            "leave one too, and any fine-tuning changes weights and what other texts promote. A dash: not asked there.",
        }
    ]
