"""The record as tables in markdown and as plots."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from benchmarks.growth import LARGE
from benchmarks.jobs import JOBS
from benchmarks.measure import FEW
from benchmarks.memory import TOLERANCE
from interp.figures.files import PictureWriter
from interp.figures.theme import DASHES, GREY, MARKERS, PALETTE, figure
from interp.files import write_text

Record = Mapping[str, Any]
RESULTS = Path(__file__).parent / "results"


def table(found: Record) -> str:
    """Everything as one page of markdown."""
    parts = ["# interp beside its peers", _about(found), *_jobs(found), *_limits(found), *_growth(found)]
    return "\n\n".join([*parts, *_memory(found), *_errors(found)]) + "\n"


def _about(found: Record) -> str:
    made, settings = found["provenance"], found["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in made["packages"].items() if version)
    rounds, few = settings["runs"], min(FEW, settings["runs"])
    lines = [
        f"Commit {made['commit']}, {made['machine']['processor']}, {settings['threads']} thread.",
        f"Python {made['python']}, {versions}.",
        f"Medians of {rounds} interleaved rounds ({few} where a round takes over a minute).",
        "*Times interp* is the median over rounds of a tool's time over interp's: above 1, interp is faster.",
        "*Apart* is the largest difference from interp's values. `benchmarks/README.md` says how to read this.",
    ]
    if found["quick"]:
        lines.append("This is the quick form: small models, and no tool that needs an environment of its own.")
    return "\n".join(lines)


def _heading(record: Record) -> str:
    case = record["case"]
    if record["job"] == "probing":
        return f"drawn activations, {record['device']}"
    if record["job"] == "graphs":
        return f"{record['model']}, {case['tokens']} tokens, {record['device']}"
    pairs = f"{case['pairs']} pair{'s' if case['pairs'] > 1 else ''}"
    place = ("first", "second", "third")[case["first"]] if case["first"] < 3 else f"{case['first'] + 1}th"
    return f"{record['model']}, {case['tokens']} tokens, {pairs} that differ at the {place}, {record['device']}"


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(columns), ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _jobs(found: Record) -> Iterator[str]:
    for key, job in JOBS.items():
        records = [record for record in found["jobs"] if record["job"] == key]
        if not records:
            continue
        yield f"## {job.title}\n\nCompared: {job.answer}."
        for record in records:
            rows = [_tool(tool, job.agreement) for tool in record["tools"]]
            columns = ("tool", "seconds", "lowest to highest", "processor seconds", "times interp", "apart", "note")
            yield f"### {_heading(record)}\n\n" + _rows(columns, rows)


def _tool(tool: Record, agreement: bool) -> list[str]:
    if tool["error"]:
        return [tool["tool"], "", "", "", "", "", f"did not run: {tool['error']}"]
    notes = []
    if tool["cells_run"]:
        notes.append(f"timed on {tool['cells_run']} of {tool['cells']} cells")
    if tool["agrees"] is False:
        notes.append(f"its values differ from those of {tool['compared_with']}: no time")
    if tool["agrees"] is None:
        notes.append("reference")
    elif tool["compared_with"] != "interp":
        notes.append(f"compared with {tool['compared_with']}")
    apart = "" if tool["largest_difference"] is None else f"{tool['largest_difference']:.1e}"
    if agreement and apart:
        apart = f"{tool['largest_difference']:.1%} of answers"
    if not tool["rounds"]:
        return [tool["tool"], "", "", "", "", apart, "; ".join(notes)]
    between = f"{seconds(min(tool['rounds']))} to {seconds(max(tool['rounds']))}"
    ratio = "" if tool["ratio"] is None else f"{tool['ratio']:.2f}"
    return [
        tool["tool"], seconds(tool["seconds"]), between, seconds(tool["processor_seconds"]), ratio, apart,
        "; ".join(notes),
    ]  # fmt: skip


def seconds(value: float) -> str:
    """Seconds with three figures."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _limits(found: Record) -> Iterator[str]:
    rows = []
    for record in found["jobs"]:
        if record["limit_seconds"] is None:
            continue
        own = next((tool for tool in record["tools"] if tool["tool"] == "interp"), None)
        naive = record["naive_operations"]
        rows.append(
            [
                JOBS[record["job"]].title, _heading(record), f"{record['operations'] / 1e9:.4g}",
                f"{naive / record['operations']:.1f}" if naive else "",
                f"{statistics.median(record['matrix_rate']) / 1e9:.3g}", seconds(record["limit_seconds"]),
                seconds(own["seconds"]) if own and own["seconds"] else "",
                f"{record['efficiency']:.0%}" if record["efficiency"] else "",
                f"{record['efficiency_of_best']:.0%}" if record["efficiency_of_best"] else "",
            ]
        )  # fmt: skip
    if rows:
        columns = (
            "job", "case", "fewest operations (10^9)", "naive loop's over these", "matrix rate (10^9/s)", "limit (s)",
            "interp (s)", "efficiency", "of the best rate",
        )  # fmt: skip
        yield (
            "## The limit\n\nThe fewest operations over the matrix-multiply rate of the same rounds (medians); in the "
            "last column, over the best product of all rounds.\n\n" + _rows(columns, rows)
        )


def _growth(found: Record) -> Iterator[str]:
    for line in found["growth"]:
        device = line["points"][0]["record"]["device"]
        rows = [
            [name, *("" if slope[part] is None else f"{slope[part]:.2f}" for part in ("all", "end"))]
            for name, slope in line["slopes"].items()
        ]
        values = ", ".join(str(point["value"]) for point in line["points"])
        columns = ("", "slope over all", f"slope of the last {LARGE}")
        yield f"## Growth with {line['line']} ({values}), {device}\n\n" + _rows(columns, rows)


def _memory(found: Record) -> Iterator[str]:
    if not found["memory"]:
        return
    rows = []
    for one in found["memory"]:
        what = [one["model"], one["job"], f"{one['pairs']} x {one['tokens']}", f"{one['budget'] >> 20}"]
        if "error" in one:
            rows.append([*what, "", "", "", f"did not run: {one['error']}"])
            continue
        verdict = "within" if one["share"] <= TOLERANCE else "over"
        rows.append([*what, f"{one['weights'] >> 20}", f"{one['above'] >> 20}", f"{one['share']:.2f}", verdict])
    columns = (
        "model",
        "job",
        "pairs x tokens",
        "budget",
        "weights",
        "peak above before",
        "(weights + peak) / (weights + budget)",
        "",
    )
    yield f"## Memory of a sweep (MB; within: at most {TOLERANCE})\n\n" + _rows(columns, rows)


def _errors(found: Record) -> Iterator[str]:
    rows = []
    for name, places in found["tools"].items():
        for device, about in places.items():
            said = about.get("error")
            versions = ", ".join(f"{package} {version}" for package, version in about.get("versions", {}).items())
            rows.append([name, device, versions, f"did not start: {said}" if said else ""])
    if rows:
        yield "## Tools\n\n" + _rows(("tool", "device", "versions", ""), rows)


_TICKS = [step * 10.0**power for power in range(-4, 5) for step in (1, 2, 5)]


# Plots ---------------------------------------------------------------------------------------------------------------


def write(found: Record, out: Path) -> None:
    """`latest.md`, and the plots as HTML and, where there is a browser, PNG."""
    write_text(out / "latest.md", table(found))
    plots = out / "plots"
    plots.mkdir(exist_ok=True)
    with PictureWriter(plots) as writer:
        for name, made in figures(found):
            writer.write(made, plots / name, "")


def figures(found: Record) -> Iterator[tuple[str, go.Figure]]:
    """Each plot with its name."""
    for device in dict.fromkeys(record["device"] for record in found["jobs"]):
        records = [record for record in found["jobs"] if record["device"] == device]
        yield f"ratios-{device}", _ratios(records, device)
        if any(record["efficiency"] for record in records):
            yield f"efficiency-{device}", _efficiency(records, device)
    for line in found["growth"]:
        yield f"growth-{line['line']}-{line['points'][0]['record']['device']}", _growing(line)


def _label(record: Record) -> str:
    case = record["case"]
    special = [f"{case['pairs']} pair"] if case["pairs"] == 1 and record["job"] != "graphs" else []
    special += [f"from token {case['first'] + 1}"] if case["first"] else []
    return " · ".join([record["job"], record["model"], *special])


def _ratios(records: Sequence[Record], device: str) -> go.Figure:
    labels = [_label(record) for record in records]
    made = figure(
        f"Time over interp's ({device})", "right of the line interp is faster; values were compared first",
        width=900, height=200 + 34 * len(records),
    )  # fmt: skip
    names = dict.fromkeys(tool["tool"] for record in records for tool in record["tools"] if tool["tool"] != "interp")
    for number, name in enumerate(names):
        colour, symbol = PALETTE[number % len(PALETTE)], MARKERS[(number + number // len(PALETTE)) % len(MARKERS)]
        there = [
            (label, tool["ratio"])
            for label, record in zip(labels, records, strict=True)
            for tool in record["tools"]
            if tool["tool"] == name and tool["ratio"]
        ]
        made.add_scatter(
            y=[label for label, _ in there], x=[ratio for _, ratio in there], name=name, mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 10},
        )  # fmt: skip
    made.add_vline(x=1, line={"color": GREY, "dash": "dot"})
    made.update_xaxes(type="log", title="median ratio of times (log scale)", tickvals=_TICKS)
    made.update_yaxes(autorange="reversed", categoryorder="array", categoryarray=labels)
    return made


def _efficiency(records: Sequence[Record], device: str) -> go.Figure:
    there = [record for record in records if record["efficiency"]]
    made = figure(
        f"Limit over time ({device})", "fewest operations over the matrix-multiply rate of the same rounds, medians",
        width=900, height=160 + 30 * len(there),
    )  # fmt: skip
    made.add_bar(
        y=[_label(record) for record in there], x=[record["efficiency"] for record in there], orientation="h",
        marker={"color": PALETTE[0]}, text=[f"{record['efficiency']:.0%}" for record in there],
    )  # fmt: skip
    made.update_xaxes(title="efficiency of interp", tickformat=".0%", range=[0, 1])
    made.update_yaxes(autorange="reversed")
    return made


def _growing(line: Record) -> go.Figure:
    points = line["points"]
    made = figure(
        f"Residual patching: seconds by {line['line']}",
        "both axes logarithmic; dotted: as the fewest operations grow, from interp's last point",
    )
    x = [point["value"] for point in points]
    for number, name in enumerate(name for name in line["slopes"] if name != "counted operations"):
        y = [
            next((tool["seconds"] for tool in point["record"]["tools"] if tool["tool"] == name), None)
            for point in points
        ]
        made.add_scatter(
            x=x, y=y, name=name, mode="lines+markers", marker={"symbol": MARKERS[number]},
            line={"color": PALETTE[number], "dash": DASHES[number]},
        )  # fmt: skip
        if name == "interp" and y[-1]:
            counted = [point["record"]["operations"] for point in points]
            y = [y[-1] * count / counted[-1] for count in counted]
            made.add_scatter(x=x, y=y, name="counted operations", mode="lines", line={"color": GREY, "dash": "dot"})
    made.update_xaxes(type="log", title=line["line"], tickvals=x)
    made.update_yaxes(type="log", title="seconds", tickvals=_TICKS)
    return made
