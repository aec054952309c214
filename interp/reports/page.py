"""`index.html` and `SUMMARY.md` of a run folder, made from `run.json` and the figures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from interp.figures.files import CONFIG, PLOTLY_JS
from interp.files import read_json, read_text, write_text

_VERDICTS = ("supported", "not supported", "undecided")


def write_report(folder: Path | str) -> tuple[Path, Path]:
    """Write both files of a finished run; returns their paths. Raises DataError where `run.json` is missing."""
    folder = Path(folder)
    run = read_json(folder / "run.json")
    environment = Environment(
        loader=PackageLoader("interp.reports"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["number"] = number
    environment.filters["interval"] = interval
    environment.filters["ends"] = ends
    shown = {
        "run": run,
        "verdicts": _count(run),
        "plotly": PLOTLY_JS,
        "config": CONFIG,
        "figure_json": lambda part, step, name: read_text(folder / part / step / "figures" / f"{name}.json"),
    }
    index, summary = folder / "index.html", folder / "SUMMARY.md"
    write_text(index, environment.get_template("page.html").render(shown))
    plain = environment.overlay(autoescape=False, finalize=_markdown)
    write_text(summary, plain.get_template("summary.md").render(shown))
    return index, summary


def write_overview(folder: Path | str, studies: Sequence[str]) -> tuple[Path, Path]:
    """Write one page and one summary over several studies that lie in folders of their names."""
    folder = Path(folder)
    runs = {name: read_json(folder / name / "run.json") for name in studies}
    shown = {"runs": runs, "verdicts": {name: _count(run) for name, run in runs.items()}}
    environment = Environment(
        loader=PackageLoader("interp.reports"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    index, summary = folder / "index.html", folder / "SUMMARY.md"
    write_text(index, environment.get_template("overview.html").render(shown))
    texts = [read_text(folder / name / "SUMMARY.md").replace("\n#", "\n##").replace("# ", "## ", 1) for name in studies]
    write_text(summary, "# Studies\n\n" + "\n\n".join(texts))
    return index, summary


def number(value: float | None) -> str:
    """Three significant digits, four decimals at most; a dash for what is undefined."""
    if value is None or value != value:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 0.01:
        return f"{value:.3g}"
    return f"{round(value, 4) + 0.0:g}"


def _markdown(value: object) -> object:
    """Text made fit for a line of Markdown: no HTML, no table bars; code spans are the templates' own."""
    if not isinstance(value, str):
        return value
    return "<br>".join(value.replace("<", "&lt;").replace("|", "/").replace("`", "'").splitlines())


def ends(estimate: dict[str, Any]) -> str:
    """The ends of a value's interval; nothing where they are the value itself."""
    if estimate["low"] is None:
        return "no interval"
    low, high = number(estimate["low"]), number(estimate["high"])
    return "" if low == high == number(estimate["value"]) else f"[{low}, {high}]"


def interval(estimate: dict[str, Any]) -> str:
    """A value with its ends."""
    return f"{number(estimate['value'])} {ends(estimate)}".rstrip()


def _count(run: dict[str, Any]) -> dict[str, int]:
    found = [claim["verdict"] for part in run["parts"] for claim in part["claims"]]
    return {verdict: found.count(verdict) for verdict in _VERDICTS}
