"""The loop around a judge, stage by stage: train it watched, find what fools it, mend that, and compare.

Each stage takes what earlier ones left in the folder of the run, and the shipped models where they left nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from interp.errors import ConfigError
from interp.files import data_dir, write_json, write_jsonl
from interp.models.judge import load_judge
from interp.studies.safety_judge.recipe import judged, read_judge_recipe, run_judge_recipe
from interp.studies.safety_judge.settings import JudgeSettings
from interp.studies.safety_judge.study import NAME, UPDATE, Models, shipped
from interp.studies.safety_judge.subject import JudgeSubject, alike, rule_slots
from interp.studies.safety_judge.update import read_judge_update, run_judge_update
from interp.studies.study import open_folder
from interp.workflows.adversarial import EditSearch, find_edits

Stage = Literal["train", "attack", "update", "report"]
STAGES: tuple[Stage, ...] = get_args(Stage)
Watch = Callable[[Path, int], Any]
"""Makes, for a folder and a number of steps, what watches a recipe."""


def known_stages(said: str) -> tuple[Stage, ...]:
    """The stages in a list by comma, in the order in which they are carried out."""
    wanted = [name.strip() for name in said.split(",") if name.strip()]
    for name in wanted or [said]:
        if name not in STAGES:
            raise ConfigError(f"there is no stage {name!r}; choose from {', '.join(STAGES)}")
    return tuple(stage for stage in STAGES if stage in wanted)


def models_in(out: Path) -> Models:
    """The models of a run's folder where it has them, the shipped ones where it has none.

    An update belongs to its judge: beside a judge that was trained here no shipped one is taken.
    """
    own, mended = out / "models" / NAME, out / "models" / UPDATE
    update = mended if (mended / "card.json").is_file() else None
    if (own / "card.json").is_file():
        return Models(own, update)
    given = shipped()
    return given if update is None else Models(given.judge, update)


def run_stages(
    stages: Sequence[Stage],
    out: Path,
    settings: JudgeSettings,
    *,
    device: str | None,
    command: str,
    watch: Watch,
    progress: bool,
    said: Callable[[str], None],
) -> None:
    """Carry out all stages but the report, which `safety_judge` with `models_in(out)` makes."""
    out = open_folder(out, NAME)
    for stage in stages:
        if stage == "train":
            said(_train(out, device, command, watch, progress))
        if stage == "attack":
            said(_attack(out, settings, device, progress))
        if stage == "update":
            said(_update(out, device, command, progress))


def _train(out: Path, device: str | None, command: str, watch: Watch, progress: bool) -> str:
    folder = out / "models" / NAME
    if (folder / "card.json").is_file():
        return f"trained before: {folder}"
    recipe = read_judge_recipe(data_dir() / "models" / NAME / "train.yaml")
    watcher = watch(folder, recipe.steps)
    card = run_judge_recipe(recipe, folder, device=device or "cpu", command=command, progress=progress, watch=watcher)
    watcher.finish()
    return f"trained: {card['held_out']['test']['accuracy']['value']:.2%} of held-out requests; {folder}"


def _attack(out: Path, settings: JudgeSettings, device: str | None, progress: bool) -> str:
    subject = JudgeSubject(load_judge(models_in(out).judge, device=device), settings)
    some = subject.attacked
    found = find_edits(
        subject.judge, [one.text for one in some], words=alike(), slots=rule_slots(some), budget=settings.budget,
        groups=judged(subject.judge, some).groups, seed=settings.seed, progress=progress,
    )  # fmt: skip
    write_jsonl(out / "attack.jsonl", _rows(found))
    words = Counter(found.new[i] for i in _fooled(found))
    there = found.base > 0
    asked, flipped = int(there.sum()), int(found.flipped[there].nansum())
    write_json(out / "attack.json", {"requests": len(some), "unsafe": asked, "flipped": flipped, "words": words})
    most = ", ".join(word for word, _ in words.most_common(8))
    return f"attack: {flipped} of {asked} unsafe verdicts flipped, most by {most or 'no word'}"


def _fooled(found: EditSearch) -> list[int]:
    """The edits that turn an unsafe verdict: about what the judge calls safe already it cannot be fooled."""
    return (found.flips & (found.base > 0)[found.prompt]).nonzero().flatten().tolist()


def _rows(found: EditSearch) -> list[dict[str, Any]]:
    """The edits that turned an unsafe verdict."""
    return [
        {
            "text": found.texts[int(found.prompt[i])], "edited": found.edited(i), "old": found.old[i],
            "new": found.new[i], "before": round(float(found.base[found.prompt[i]]), 4),
            "after": round(float(found.log_odds[i]), 4),
        }
        for i in _fooled(found)
    ]  # fmt: skip


def _update(out: Path, device: str | None, command: str, progress: bool) -> str:
    folder = out / "models" / UPDATE
    if (folder / "card.json").is_file():
        return f"updated before: {folder}"
    recipe = read_judge_update(data_dir() / "models" / UPDATE / "train.yaml")
    own = out / "models" / NAME
    if (own / "card.json").is_file():
        recipe = recipe.model_copy(update={"base": str(own)})
    card = run_judge_update(recipe, folder, device=device or "cpu", command=command, progress=progress)
    weak = (card["held_out"]["weak acts"][when]["accuracy"]["value"] for when in ("before", "after"))
    return "updated: {:.2%} -> {:.2%} right with weak acts; {}".format(*weak, folder)
