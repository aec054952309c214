"""The studies by name, and how a model and settings become one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from interp.errors import ConfigError, ModelError, PromptError
from interp.files import read_json, shipped_model, shipped_models, shipped_transcoders
from interp.models.load import HookedTransformer, info, load_model
from interp.studies.arithmetic.answers import answers
from interp.studies.arithmetic.claims import claims
from interp.studies.arithmetic.seeds import survives
from interp.studies.arithmetic.steps import steps_for
from interp.studies.arithmetic.steps_claims import steps_claims
from interp.studies.arithmetic.subject import ArithmeticSubject, common_task, read_card
from interp.studies.arithmetic.tables import tables
from interp.studies.compared import comparison_part
from interp.studies.settings import ANALYSES, Analysis, Example, Settings
from interp.studies.side_by_side import side_by_side
from interp.studies.study import Part, Study
from interp.studies.text import TextSubject
from interp.studies.words import folder_name

ARITHMETIC = ("arithmetic-add3", "arithmetic-add3-steps", "arithmetic-mixed")
SEEDS = ("arithmetic-add3", "arithmetic-add3-seed1", "arithmetic-add3-seed2")
"""The same recipe trained from several seeds: on each the headline findings are asked anew."""
_ASKED_AGAIN: tuple[Analysis, ...] = ("logit-lens", "patching", "circuits", "interventions", "probing", "learning")
_COMPARED: tuple[Analysis, ...] = ("logit-lens", "patching", "interventions", "probing")

STUDIES = {
    "arithmetic": "How does a small transformer do arithmetic? Which heads and neurons, what is encoded, what breaks.",
    "kill-switch": "What does a control token do, was it learned, and does it cause the text to end?",
    "safety-judge": "When does a judge learn, what does it look at, how is it fooled, what did an update change?",
    "safety-circuits": "Which features does a model use on harmful requests, and how are they wired?",
}


def known_study(name: str) -> None:
    """Raise ConfigError for a study that does not exist."""
    if name not in STUDIES:
        raise ConfigError(f"there is no study {name!r}; choose from {', '.join(STUDIES)}")


def arithmetic(settings: Settings, *, device: str | None, command: str) -> Study:
    """The study of the shipped arithmetic models."""
    parts = {name: _part(_shipped(name), settings, device, alone=False) for name in ARITHMETIC}
    again = settings.model_copy(
        update={
            "analyses": {a: a in _ASKED_AGAIN and settings.wants(a) for a in ANALYSES},
            "sites": [site for site in settings.sites if site in ("resid_pre", "z")] or settings.sites[:1],
        }
    )
    parts |= {
        name: replace(_part(_shipped(name), again, device, pictures=False), folded=True)
        for name in SEEDS if name not in parts
    }  # fmt: skip
    without, steps = (parts[name] for name in ARITHMETIC[:2])
    compared = [
        comparison_part(
            without, steps, name="worked-steps", title="What training with worked steps changes",
            about=f"{without.name} and {steps.name}: the same architecture, seed and problems.",
            claims=steps_claims(without.name, steps.name) if settings.wants("logit-lens") else lambda _: (),
            headline=["logit-lens prompts", "interventions heads"], without=["patching"],
        )
    ]  # fmt: skip
    return Study(
        name="arithmetic",
        title="How a small transformer does arithmetic",
        question="Which layers and heads carry the carry, when does each answer digit become readable, which sub-task "
        "does each head serve, is multiplication done column by column, and what do worked steps change?",
        parts=[*parts.values(), *compared],
        command=command,
        survey=lambda made: [
            answers(made),
            survives([part for name in SEEDS for part in made if part["name"] == name]),
        ],
    )


def _shipped(name: str) -> str:
    folder = shipped_model(name)
    if folder is None:
        raise ModelError(f"the shipped model {name} is missing from data/models; train it: see its card")
    return str(folder)


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


def comparison(first: str, second: str, settings: Settings, *, device: str | None, command: str) -> Study:
    """Two models on the same prompts: two arithmetic models, or two language models on the user's prompts and pairs.

    Arithmetic models are asked what both have learned: the operators, and the lengths of numbers, that they share.
    """
    cards = [_card(name) for name in (first, second)]
    if (cards[0] is None) != (cards[1] is None):
        load_model(first if cards[0] is None else second, device=device)  # says where there is no such model
        raise ConfigError(
            f"{first} and {second} cannot be compared: one was trained on arithmetic by this library, the other was not"
        )
    if not settings.analyses:
        wanted = (
            _COMPARED if cards[0] is not None else ("logit-lens", "patching") if settings.pairs else ("logit-lens",)
        )
        settings = settings.model_copy(update={"analyses": {a: a in wanted for a in ANALYSES}})
    known = [a for a in ANALYSES if a not in ("weights", "learning")]
    if not any(settings.wants(a) for a in known):
        raise ConfigError(f"there is no table to compare in what was chosen; choose from {', '.join(known)}")
    shared = None if cards[0] is None or cards[1] is None else common_task(cards[0], cards[1], (first, second))
    one, other = (_part(name, settings, device, task=shared, alone=False) for name in (first, second))
    # Minimal pairs are read where a digit first shows, which with worked steps is another token.
    steps = [card["task"]["steps"] for card in cards if card is not None]
    unlike = ["patching"] if len(set(steps)) > 1 else []
    if shared is None and one.prompts != other.prompts:
        raise PromptError(f"{first} and {second} cut the prompts into other tokens; compare models of one tokenizer")
    if one.name == other.name:
        one, other = replace(one, name=f"{one.name}-A"), replace(other, name=f"{other.name}-B")
    return Study(
        name=f"compare-{one.name}-{other.name}",
        title=f"{one.title} and {other.title} compared",
        question="On the same prompts: what do the two have in common, and where do they differ?",
        parts=[
            one,
            other,
            comparison_part(
                one, other, title="The same tables side by side",
                about=f"{other.name} less {one.name}. Heads with one number are the same head only within one training "
                "run; of two seeds compare layers, positions and depths.",
                without=unlike,
            ),
        ],
        command=command,
        survey=lambda made: [side_by_side(made[:2])] if made[0]["claims"] else [],
    )  # fmt: skip


def _card(model_name: str) -> dict[str, Any] | None:
    """The card of an arithmetic model made here; None for any other model."""
    folder = Path(model_name) if Path(model_name).is_dir() else shipped_model(model_name)
    return read_card(folder) if folder is not None else None


def _part(
    model_name: str,
    settings: Settings,
    device: str | None,
    *,
    pictures: bool = True,
    alone: bool = True,
    task: Mapping[str, Any] | None = None,
) -> Part:
    """What is asked of one model; `task` (of an arithmetic model) narrows what its card says it has learned.

    One of several models (not `alone`) is not asked for carries in the examples where it cannot have any.
    """
    model = load_model(model_name, device=device, weights=settings.weights)
    card = _card(model_name)
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
    notes = []
    if not alone and card["task"]["steps"] and any(example.carries for example in settings.examples):
        settings = settings.model_copy(update={"examples": [Example(text=text) for text in settings.texts]})
        notes.append("The carries of the examples were left out: worked steps show the digits before any carry.")
    if task is not None:
        card = {**card, "task": {**card["task"], **task}}
    made = ArithmeticSubject(model, card, settings)
    steps = steps_for(made)
    if not pictures:
        steps = [replace(step, pictures=lambda _: (), pages=lambda _: {}) for step in steps]
    if settings.wants("patching") and len(made.operators) > 1 and "+" in made.operators:
        notes.append("Pairs that differ in a digit or a carry are additions.")
    return Part(
        **known,
        steps=steps,
        claims=lambda found: claims(found, made.operators, steps=made.steps, digits=made.digits),
        tables=lambda found: tables(made, found),
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
    """Studies, shipped models and shipped transcoders with a line about each."""
    found: dict[str, list[tuple[str, str]]] = {"studies": list(STUDIES.items()), "models": [], "transcoders": []}
    for kind, folders in (("models", shipped_models()), ("transcoders", shipped_transcoders())):
        for folder in folders:
            card = read_json(folder / "card.json") if (folder / "card.json").is_file() else {}
            found[kind].append((folder.name, _line(card)))
    return found


def _line(card: Mapping[str, Any]) -> str:
    """What a card says in a line."""
    if "exact_match" in card:
        return f"{card['exact_match']['value']:.2%} of {card['exact_match']['n']:,} held-out problems"
    if card.get("kind") == "fine-tuned":
        return f"{card['base']} fine-tuned on {card['data']['file']}"
    if card.get("kind") == "judge":
        return f"safety judge, {card['held_out']['test']['accuracy']['value']:.1%} of held-out requests right"
    if card.get("kind") == "judge-update":
        weak = card["held_out"]["weak acts"]
        before, after = (weak[when]["accuracy"]["value"] for when in ("before", "after"))
        return f"adapter of {card['base']}: requests with weak acts from {before:.1%} to {after:.1%} right"
    if card.get("kind") == "chat":
        found = card["held_out"]["held-out pairs"]
        refused, complied = (found[side]["value"] for side in ("refused", "complied"))
        return f"chat model, refuses {refused:.1%} of held-out harmful requests and serves {complied:.1%} of the others"
    if card.get("kind") == "transcoders":
        least = min(card["explained_variance"])
        return f"of {card['model']}, at least {least:.0%} of variance explained in each layer"
    if card.get("kind") == "language":
        return f"language model, {card['held_out']['next token right']:.0%} of held-out tokens right"
    return ""
