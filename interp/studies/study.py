"""A run: named steps that write their results as they finish, and can be taken up again after a kill.

A step is finished when its `done.json` is there with the fingerprint of everything the step depends on. Claims and
pages are always made from what was read back from disk, so a resumed run ends with the files of an unbroken one; only
`seconds.json`, beside each `done.json`, tells how long a step took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from interp import results
from interp.errors import DataError
from interp.evidence import Claim
from interp.figures.files import PictureWriter
from interp.files import make_folder, read_json, write_json, write_text

Results = dict[str, Any]
"""Result dataclasses by name."""

Report = Callable[[str], None]
"""Tells the progress bar what is being done."""

Watch = Callable[[str, int], None]
"""Tells the progress bar what is being done, and how many steps have been finished."""

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
    title: str = ""
    """Heading on the page; by default the name."""
    drawn: Sequence[str] = ()
    """What the figures depend on besides the results."""
    beside: Sequence[Path] = ()
    """Folders that it writes outside its own: where one is missing, the step is done again."""
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
    highlights: Callable[[Mapping[str, Results]], Sequence[Mapping[str, Any]]] = lambda _: ()
    """Tables of the part on its page: title, text, columns, rows."""
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
    further: Callable[[Path, Mapping[str, Mapping[str, Results]], Sequence[Mapping[str, Any]]], Mapping[str, str]] = (
        lambda *_: {}
    )
    """Writes what else belongs into the run's folder, from all results and from the parts as in `run.json`; returns
    pages among it: titles, and paths below the folder."""


def run_study(study: Study, out: Path | str, *, png: bool = True, progress: bool = True) -> dict[str, Any]:
    """Carry out what is not yet done and write the run folder; returns the content of `run.json`.

    Folder: `<part>/<step>/<result>/` with safetensors, JSON and parquet, `<part>/<step>/figures/` with HTML and PNG,
    `run.json`. Raises DataError where the folder cannot be written or belongs to something else.
    """
    out = open_folder(out, study.name)
    found: dict[str, dict[str, Results]] = {}
    done: dict[str, dict[str, Any]] = {}
    with PictureWriter(out, png=png) as writer, bar_over(study, progress) as watch:
        for part in study.parts:
            for name, entry, results_of in carry_out(part, out, found, writer, watch):
                done[f"{part.name}/{name}"] = entry
                found.setdefault(part.name, {})[name] = results_of
    parts = []
    for part in study.parts:
        of_part = found.get(part.name, {})
        tables = part.tables(of_part)
        for name, content in tables.items():
            write_json(out / part.name / f"{name}.json", content)
        parts.append(
            {
                "name": part.name,
                "title": part.title,
                "about": part.about,
                "model": dict(part.model),
                "notes": list(part.notes),
                "claims": [c.as_dict() for c in (*part.claims(of_part), *part.joint_claims(found))],
                "steps": [
                    {
                        "name": s.name,
                        "title": s.title,
                        "text": s.text,
                        "key": s.key,
                        **done[f"{part.name}/{s.name}"],
                    }
                    for s in part.steps
                ],
                "highlights": [dict(table) for table in part.highlights(of_part)],
                "tables": sorted(tables),
                "settings": dict(part.settings),
                "prompts": dict(part.prompts),
                "folded": part.folded,
            }
        )
    run = {
        "study": study.name,
        "further": dict(study.further(out, found, parts)),
        "title": study.title,
        "question": study.question,
        "command": study.command,
        "provenance": results.provenance(),
        "survey": [dict(table) for table in study.survey(parts)],
        "parts": parts,
    }
    write_json(out / "run.json", run)
    return read_json(out / "run.json")


def carry_out(
    part: Part, out: Path, found: Mapping[str, Mapping[str, Results]], writer: PictureWriter, watch: Watch
) -> Iterator[tuple[str, dict[str, Any], Results]]:
    """Compute, save and draw what is not yet there; yields for each step its name, figures and results."""
    for step in part.steps:
        here = f"{part.name}: {step.name}"
        watch(here, 0)
        folder = out / part.name / step.name
        _compute(step, folder, found, lambda what, at=here: watch(f"{at}, {what}", 0))
        had = _read_back(folder)
        figures = _draw(step, had, folder / "figures", writer, lambda what, at=here: watch(f"{at}, {what}", 0))
        watch(here, 1)
        yield step.name, figures, had


def open_folder(out: Path | str, study: str) -> Path:
    """The folder of a run, new or taken up again. Raises DataError where it belongs to something else."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; choose a folder to write to")
    make_folder(out)
    if any(out.iterdir()) and not (out / _MARKER).exists():
        raise DataError(f"{out} holds files that are no run of this library; choose an empty folder")
    known = read_json(out / "run.json").get("study", study) if (out / "run.json").exists() else study
    if known != study:
        raise DataError(f"{out} holds the run {known}; choose another folder for {study}")
    write_text(out / _MARKER, "This folder is a run of interp; what is in it is written by the command.\n")
    return out


def is_done(step: Step, folder: Path) -> bool:
    """Whether a step is finished and whole."""
    try:
        known = read_json(folder / "done.json")
        if not isinstance(known, dict) or known.get("key") != step.fingerprint:
            return False
        if not all(one.is_dir() for one in step.beside):
            return False
        _read_back(folder)
        return True
    except DataError:  # missing or damaged
        return False


def _compute(step: Step, folder: Path, found: Mapping[str, Mapping[str, Results]], report: Report) -> None:
    """Compute and save the results unless they are there."""
    if is_done(step, folder):
        return
    (folder / "done.json").unlink(missing_ok=True)
    started = time.perf_counter()
    computed = step.compute(report) if step.derive is None else step.derive(found)
    for name, result in computed.items():
        report(f"saving {name}")
        results.save(result, folder / name)
    write_json(folder / "seconds.json", round(time.perf_counter() - started, 2))
    write_json(folder / "done.json", {"key": step.fingerprint, "results": list(computed)})


def _read_back(folder: Path) -> Results:
    return {name: results.load(folder / name) for name in read_json(folder / "done.json")["results"]}


def _draw(step: Step, had: Results, folder: Path, writer: PictureWriter, report: Report) -> dict[str, Any]:
    """Write the figures of a step that are not there yet; returns what the page needs to know of them."""
    key = results.fingerprint(step.fingerprint, list(step.drawn))
    pictures, pages = list(step.pictures(had)), step.pages(had)
    for picture in pictures:
        if not writer.is_there(folder / picture.name, key):
            report(picture.name)
            writer.write(picture.draw(), folder / picture.name, key)
    for name, content in pages.items():
        writer.write_page(content, folder / f"{name}.html", key)
    return {
        "figures": [{"name": p.name, "caption": p.caption, "headline": p.headline} for p in pictures],
        "pages": sorted(pages),
        "png": writer.png,
        "why_no_png": writer.why_no_png,
    }


@contextmanager
def bar_over(study: Study, progress: bool) -> Iterator[Watch]:
    """A progress bar over the steps of a study."""
    with Progress(
        TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[what]}"),
        TimeElapsedColumn(), disable=not progress,
    ) as bar:  # fmt: skip
        task = bar.add_task(study.name, total=sum(len(part.steps) for part in study.parts), what="")
        yield lambda what, finished: bar.update(task, what=what, advance=finished)
