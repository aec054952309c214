"""Times of other tools over interp's, and how they grow. a: median ratio of the rounds of one run and, as a line, the
lowest and the highest; right of the dotted line interp is faster. Same weights, prompts and answers, values compared
first, one thread. b: residual patching, 4 heads of width 32, by the length of the prompts; dotted: as the fewest
operations grow, from interp's last point. From `benchmarks/results/latest.json`, written by `make bench`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from benchmarks.figures import paper
from benchmarks.report import RESULTS
from interp.errors import DataError
from interp.figures.theme import CONTROL, DASHES, MARKERS, PALETTE
from interp.files import read_text

MODEL, GROWS = "GPT-2 small", "tokens"
NAMES = {
    "residual": "residual patching", "heads": "head patching", "ablation": "head ablation", "edges": "edge attribution",
    "nodes": "attribution patching", "probing": "linear probes", "lens": "logit lens", "tokens": "token attribution",
}  # fmt: skip
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)


def figure(reports: Path) -> go.Figure:
    return drawn(RESULTS / "latest.json")


def drawn(results: Path) -> go.Figure:
    if not results.is_file():
        raise DataError(f"{results} is missing; run this first: make bench")
    found = json.loads(read_text(results))
    records = [record for record in found["jobs"] if record["model"] == MODEL and record["device"] == "cpu"]
    made = paper.panels(
        [f"times over interp's, {MODEL} shape", "residual patching, seconds"], columns=2, height=3.3 * paper.INCH,
        column_widths=[0.64, 0.36], horizontal_spacing=0.1,
    )  # fmt: skip
    there = {tool["tool"] for record in records for tool in record["tools"]} - {"interp"}
    names = [name for name in found["tools"] if name in there]
    paper.add(made, _ratios(records, names), 1, 1)
    made.update_xaxes(type="log", title="ratio of times", tickvals=TICKS, row=1, col=1)
    labels = [_label(record) for record in records]
    made.update_yaxes(categoryorder="array", categoryarray=labels[::-1], row=1, col=1)
    even = go.Scatter(x=[1, 1], y=[labels[0], labels[-1]], mode="lines", line=CONTROL, showlegend=False)
    paper.add(made, [even], 1, 1)
    for line in found["growth"]:
        if line["line"] == GROWS and line["points"][0]["record"]["device"] == "cpu":
            paper.add(made, _growth(line, names), 1, 2)
    made.update_xaxes(type="log", title="tokens in a prompt", tickvals=[8, 16, 32, 64, 128, 256], row=1, col=2)
    made.update_yaxes(type="log", dtick=1, row=1, col=2)
    return paper.in_print(made, **paper.below(64) | {"margin_l": 150})


def _label(record: Mapping[str, Any]) -> str:
    case = record["case"]
    special = ", one pair" if case["pairs"] == 1 else ""
    special += f", differ from token {case['first'] + 1}" if case["first"] else ""
    return NAMES[record["job"]] + special


def _tool(record: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    return next((tool for tool in record["tools"] if tool["tool"] == name and tool["rounds"]), None)


def _ratios(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Iterator[go.Scatter]:
    for number, name in enumerate(names):
        x, low, high, y = [], [], [], []
        for record in records:
            own, other = _tool(record, "interp"), _tool(record, name)
            if own is None or other is None or other["ratio"] is None:
                continue
            ratios = [theirs / ours for theirs, ours in zip(other["rounds"], own["rounds"], strict=True)]
            x.append(other["ratio"])
            low.append(other["ratio"] - min(ratios))
            high.append(max(ratios) - other["ratio"])
            y.append(_label(record))
        yield go.Scatter(
            x=x, y=y, name=name, mode="markers", marker=dict(symbol=MARKERS[number], color=PALETTE[number], size=9),
            error_x=dict(array=high, arrayminus=low, thickness=0.9, width=2),
        )  # fmt: skip


def _growth(line: Mapping[str, Any], names: Sequence[str]) -> Iterator[go.Scatter]:
    x = [point["value"] for point in line["points"]]
    own = [_tool(point["record"], "interp") for point in line["points"]]
    seconds = [None if one is None else one["seconds"] for one in own]
    yield go.Scatter(x=x, y=seconds, name="interp", mode="lines+markers", line_color="#1c1c1c", marker_size=7)
    for number, name in enumerate(names):
        others = [_tool(point["record"], name) for point in line["points"]]
        if any(others):
            yield go.Scatter(
                x=x, y=[None if one is None else one["seconds"] for one in others], name=name, mode="lines+markers",
                line=dict(color=PALETTE[number], dash=DASHES[number % len(DASHES)]),
                marker=dict(symbol=MARKERS[number], size=7),
            )  # fmt: skip
    counted = [point["record"]["operations"] for point in line["points"]]
    if seconds[-1] is not None:
        y = [seconds[-1] * count / counted[-1] for count in counted]
        yield go.Scatter(x=x, y=y, name="fewest operations", mode="lines", line=CONTROL)


if __name__ == "__main__":
    paper.main(figure)
