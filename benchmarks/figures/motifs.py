"""How attribution graphs of deceptive requests are wired. a: sets of edges that are in the graphs of harmful requests
and of their safe contrasts in different shares, on pairs that had no part in the choice, with 95 % intervals; sets in
the very same prompts stand once, with the number of the others. All shown were confirmed (max-T) unless a name is in
brackets. b: how often each class of three nodes occurs over what copies with rewired edges have, the most frequent; the
bar holds 95 % of the copies, which keep layers, order and degrees. Positions are collapsed in both.
"""

from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from benchmarks.figures import paper
from interp.estimates import Estimate
from interp.figures.features import plot_triads
from interp.figures.theme import MARKERS, PALETTE, safe

SETS, TRIADS = 11, 12
CATEGORY = "deception"


def figure(reports: Path) -> go.Figure:
    where = ("safety-circuits", CATEGORY, "graphs")
    contrast = paper.load(reports, *where, "contrast")
    made = paper.panels(
        ["sets of edges on both sides", "three nodes, beside rewired graphs"], columns=2, height=4.4 * paper.INCH,
        horizontal_spacing=0.36,
    )  # fmt: skip
    order, alike = contrast.distinct()
    order = order[:SETS]
    for number, (name, side) in enumerate(zip(contrast.names, contrast.sides(), strict=True)):
        made.add_trace(_across(side[order], name, number), row=1, col=1)
    labels = [_label(contrast.motifs[i], int(alike[i]), bool(contrast.confirmed[i])) for i in order]
    _rows(made, labels, 1)
    triads: Any = plot_triads(paper.load(reports, *where, "triads"), most=TRIADS)
    for trace in triads.data:
        trace.y = len(triads.layout.yaxis.ticktext) - 1 - np.asarray(trace.y)
        trace.error_x.thickness = 2
        made.add_trace(trace, row=1, col=2)
    starred = [_broken(text.removeprefix("★ ")) for text in triads.layout.yaxis.ticktext[::-1]]
    _rows(made, starred, 2)
    made.update_xaxes(title="share of prompts", range=[-0.04, 1.04], tickformat=".0%", row=1, col=1)
    made.update_xaxes(title="count over expected", row=1, col=2)
    return paper.in_print(made, **paper.legends(made, 106), margin_l=150)


def _across(side: Estimate, name: str, number: int) -> go.Scatter:
    """Shares with their intervals, one side a little above the other."""
    return go.Scatter(
        x=side.value, y=np.arange(len(side.value)) - 0.14 + 0.28 * number, mode="markers", name=name,
        marker=dict(color=PALETTE[number], symbol=MARKERS[number], size=8),
        error_x=dict(
            type="data", symmetric=False, array=side.high - side.value, arrayminus=side.value - side.low, thickness=1,
            width=0,
        ),
    )  # fmt: skip


def _label(text: str, alike: int, confirmed: bool) -> str:
    shown = safe(text).replace(", ", ",<br>") + (f" and {alike} more" if alike else "")
    return shown if confirmed else f"({shown})"


def _broken(text: str) -> str:
    """In two lines where it is long; plotly's text is escaped."""
    before, comma, after = text.rpartition(", ")
    return f"{before},<br>{after}" if comma and len(text) > 44 else text


def _rows(made: go.Figure, labels: list[str], column: int) -> None:
    made.update_yaxes(
        tickmode="array", tickvals=list(range(len(labels))), ticktext=labels, range=[len(labels) - 0.4, -0.6], row=1,
        col=column,
    )  # fmt: skip


if __name__ == "__main__":
    paper.main(figure)
