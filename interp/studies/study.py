"""A run: named steps that write their results as they finish, and can be taken up again after a kill.

A step is finished when its `done.json` is there with the fingerprint of everything the step depends on. Claims and
pages are always made from what was read back from disk, so a resumed run ends with the numbers of an unbroken one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from interp import results
from interp.errors import DataError
from interp.evidence import Claim
from interp.files import make_folder, read_json, write_json, write_text

Results = dict[str, Any]
"""Result dataclasses by name."""

Report = Callable[[str], None]
"""Tells the progress bar what is being done."""

_MARKER = ".interp-run"


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure of a run, made when it is wanted."""

    name: str
    caption: str
    draw: Callable[[], go.Figure]
    headline: bool = False
    """Shown open on the page; the others are folded away."""


@dataclass(frozen=True, eq=False)
class Step:
    """One analysis on one model."""

    name: str
    compute: Callable[[Report], Results]
    key: str
    """Fingerprint of model, prompts and options: a finished step with another key is done again."""
    pictures: Callable[[Results], Sequence[Picture]] = lambda _: ()
    pages: Callable[[Results], Mapping[str, str]] = lambda _: {}
    """Whole HTML pages by name (circuitsvis)."""
    text: str = ""
    drawn: Sequence[str] = ()
    """What the figures depend on besides the results."""
    derive: Callable[[Mapping[str, Mapping[str, Results]]], Results] | None = None
    """Instead of `compute`: makes the results from those of the parts before it. Its key must tell those apart."""

    @property
    def fingerprint(self) -> str:
        """The key joined with this library's source and the versions that compute."""
        return results.fingerprint(self.key, results.source_digest(), results.provenance()["packages"])


@dataclass(frozen=True, eq=False)
class Part:
    """What is said about one model."""

    name: str
    title: str
    about: str
    model: Mapping[str, Any]
    steps: Sequence[Step]
    claims: Callable[[Mapping[str, Results]], Sequence[Claim]] = lambda _: ()
    tables: Callable[[Mapping[str, Results]], Mapping[str, Any]] = lambda _: {}
    """JSON files of the part by name: head lists and the like."""
    joint_claims: Callable[[Mapping[str, Mapping[str, Results]]], Sequence[Claim]] = lambda _: ()
    """Claims on this part and those before it together."""
    notes: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Hashes of the prompts."""
    folded: bool = False
    """Folded away on the page: a repetition whose findings stand in a table above."""


@dataclass(frozen=True, eq=False)
class Study:
    """A question, and the parts that answer it."""

    name: str
    title: str
    question: str
    parts: Sequence[Part]
    command: str = ""
    survey: Callable[[Sequence[Mapping[str, Any]]], Sequence[Mapping[str, Any]]] = lambda _: ()
    """From all parts with their claims, as in `run.json`, to tables that stand before them: title, text, columns,
    rows."""


def run_study(study: Study, out: Path | str, *, png: bool = True, progress: bool = True) -> dict[str, Any]:
    """Carry out what is not yet done and write the run folder; returns the content of `run.json`.

    Folder: `<part>/<step>/<result>/` with safetensors, JSON and parquet, `<part>/<step>/figures/` with HTML and PNG,
    `run.json`. Raises DataError where the folder cannot be written or belongs to something else.
    """
    out = Path(out)
    _check_folder(out)
    steps = [(part, step) for part in study.parts for step in part.steps]
    seconds: dict[str, float] = {}
    found: dict[str, dict[str, Results]] = {part.name: {} for part in study.parts}
    with _bar(progress) as bar:
        task = bar.add_task(study.name, total=len(steps), what="")
        for part, step in steps:
            here = f"{part.name}: {step.name}"
            bar.update(task, what=here)
            folder = out / part.name / step.name
            seconds[f"{part.name}/{step.name}"] = _carry_out(
                step, folder, found, lambda what, at=here: bar.update(task, what=f"{at}, {what}")
            )
            found[part.name][step.name] = _read_back(folder)
            bar.advance(task)
    pictures = _draw_all(study, found, out, png=png, progress=progress)
    parts = []
    for part in study.parts:
        tables = part.tables(found[part.name])
        for name, content in tables.items():
            write_json(out / part.name / f"{name}.json", content)
        parts.append(
            {
                "name": part.name,
                "title": part.title,
                "about": part.about,
                "model": dict(part.model),
                "notes": list(part.notes),
                "claims": [c.as_dict() for c in (*part.claims(found[part.name]), *part.joint_claims(found))],
                "steps": [
                    {"name": s.name, "text": s.text, "key": s.key, **pictures[f"{part.name}/{s.name}"]}
                    for s in part.steps
                ],
                "tables": sorted(tables),
                "settings": dict(part.settings),
                "prompts": dict(part.prompts),
                "folded": part.folded,
            }
        )
    run = {
        "study": study.name,
        "title": study.title,
        "question": study.question,
        "command": study.command,
        "provenance": results.provenance(),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "survey": [dict(table) for table in study.survey(parts)],
        "parts": parts,
    }
    write_json(out / "run.json", run)
    return read_json(out / "run.json")


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; choose a folder to write to")
    make_folder(out)
    if any(out.iterdir()) and not (out / _MARKER).exists():
        raise DataError(f"{out} holds files that are no run of this library; choose an empty folder")
    write_text(out / _MARKER, "This folder is a run of interp; what is in it is written by the command.\n")


def _carry_out(step: Step, folder: Path, found: Mapping[str, Mapping[str, Results]], report: Report) -> float:
    """Compute and save the results unless they are there; returns the seconds it took when it was done."""
    done = folder / "done.json"
    if done.exists():
        try:
            known = read_json(done)
            if isinstance(known, dict) and known.get("key") == step.fingerprint:
                _read_back(folder)
                return float(known["seconds"])
        except DataError:
            pass  # damaged: done again
        done.unlink()
    started = time.perf_counter()
    computed = step.compute(report) if step.derive is None else step.derive(found)
    for name, result in computed.items():
        report(f"saving {name}")
        results.save(result, folder / name)
    took = time.perf_counter() - started
    write_json(done, {"key": step.fingerprint, "seconds": took, "results": list(computed)})
    return took


def _read_back(folder: Path) -> Results:
    return {name: results.load(folder / name) for name in read_json(folder / "done.json")["results"]}


def _draw_all(
    study: Study, found: Mapping[str, Mapping[str, Results]], out: Path, *, png: bool, progress: bool
) -> dict[str, dict[str, Any]]:
    """Write every figure that is not there yet; returns what the page needs to know of them."""
    from interp.figures.files import PictureWriter

    listed: dict[str, dict[str, Any]] = {}
    work: list[tuple[Path, Step, list[Picture], Mapping[str, str]]] = []
    for part in study.parts:
        for step in part.steps:
            had = found[part.name][step.name]
            pictures, pages = list(step.pictures(had)), step.pages(had)
            listed[f"{part.name}/{step.name}"] = {
                "figures": [{"name": p.name, "caption": p.caption, "headline": p.headline} for p in pictures],
                "pages": sorted(pages),
            }
            work.append((out / part.name / step.name / "figures", step, pictures, pages))
    total = sum(len(pictures) + len(pages) for _, _, pictures, pages in work)
    with PictureWriter(out, png=png) as writer, _bar(progress) as bar:
        task = bar.add_task("figures", total=total, what="")
        for folder, step, pictures, pages in work:
            key = results.fingerprint(step.fingerprint, list(step.drawn))
            for picture in pictures:
                bar.update(task, what=picture.name)
                if not writer.is_there(folder / picture.name, key):
                    writer.write(picture.draw(), folder / picture.name, key)
                bar.advance(task)
            for name, content in pages.items():
                bar.update(task, what=name)
                writer.write_page(content, folder / f"{name}.html", key)
                bar.advance(task)
        for entry in listed.values():
            entry["png"] = writer.png
            entry["why_no_png"] = writer.why_no_png
    return listed


def _bar(progress: bool) -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[what]}"),
        TimeElapsedColumn(), disable=not progress,
    )  # fmt: skip
