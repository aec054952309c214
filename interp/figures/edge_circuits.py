"""A circuit drawn as what it is made of, and how much of the metric it keeps."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from interp.analyses.edge_circuits import EdgeCircuit
from interp.estimates import Estimate, ratio
from interp.figures.grids import hover
from interp.figures.theme import GREY, MARKERS, PALETTE, figure, safe
from interp.workflows.pruning import Pruning

_CHANNELS = {"q": "into queries", "k": "into keys", "v": "into values", "": "into MLPs and logits"}
_WIDTHS = (1.0, 2.0, 3.5)
"""Of the cheapest third of the edges, the middle one and the costliest."""
_MEMBERS = 40
"""Members whose losses are drawn."""


def plot_edge_circuit(result: EdgeCircuit) -> go.Figure:
    """What a circuit keeps, what is kept without it, and what it loses with each of its members."""
    (kept, random_kept), (lost, random_lost) = result.faithfulness(), result.completeness()
    count = result.random_alone.shape[1]
    several = f"{count} random {'circuit' if count == 1 else 'circuits'} of its size"
    rows = ["the circuit alone", "all but the circuit"]
    made = figure(
        f"A circuit of {len(result.members)} {safe(result.of)}: {safe(result.metric)} kept",
        f"share of the metric; everything else is replaced: {result.kind}; bars 95 %; grey: {several}",
        xaxis=dict(title="share of the whole model's metric"),
    )
    made.add_vline(x=0, line=dict(color=GREY, width=1))
    made.add_vline(x=1, line=dict(color=GREY, width=1))
    for name, pair, color, symbol in (
        (several, (random_kept, random_lost), GREY, 1), ("this circuit", (kept, lost), PALETTE[0], 0),
    ):  # fmt: skip
        _dots(made, _joined(pair), rows, name, color, symbol)
    if result.lacking.shape[1]:
        found = result.minimality()
        order = np.argsort(-np.nan_to_num(found.value), kind="stable")[:_MEMBERS]
        some = Estimate(*(getattr(found, name)[order] for name in ("value", "low", "high", "p", "n")))
        names = [f"lost with {safe(result.members[i])}" for i in order]
        _dots(made, some, names, "lost with one member", PALETTE[1], 2)
        rows = [*rows, *names]
        made.update_layout(height=260 + 18 * len(rows))
    made.update_yaxes(categoryorder="array", categoryarray=rows[::-1], dtick=1)
    made.update_layout(legend=dict(orientation="h", y=-0.25, yanchor="top"))
    return made


def plot_pruning(result: Pruning) -> go.Figure:
    """The edges that are left, from the embedding at the bottom to the logits at the top."""
    apart = ratio(result.left - result.empty, result.whole - result.empty, result.groups)
    cost = result.cost[result.kept].numpy()
    known = np.nan_to_num(cost, nan=-np.inf)
    thirds = np.searchsorted(np.nanquantile(cost, [1 / 3, 2 / 3]), known) if np.isfinite(cost).any() else known * 0
    heads, layers = _sizes((*result.sources, *result.targets))
    made = figure(
        f"Edges that {safe(result.metric)} needs: {len(result.edges)} of {len(result.sources)}",
        f"each costs at least {result.threshold:g} {safe(result.unit)}; together they keep {apart!r} of the metric; "
        "the wider, the costlier",
        width=max(700, 220 + 70 * heads),
        height=240 + 90 * layers,
        xaxis=dict(visible=False),
        yaxis=dict(visible=False),
    )
    for channel, name in _CHANNELS.items():
        number = list(_CHANNELS).index(channel)
        for width_at, width in enumerate(_WIDTHS):
            x: list[float | None] = []
            y: list[float | None] = []
            for (source, target), third in zip(result.edges, thirds, strict=True):
                if _part(target)[1] == channel and int(third) == width_at:
                    (one, low), (other, high) = _place(source, heads, layers), _place(_part(target)[0], heads, layers)
                    x, y = [*x, one, other, None], [*y, low, high, None]
            made.add_trace(
                go.Scatter(
                    x=x or [None], y=y or [None], mode="lines", name=name, legendgroup=channel,
                    showlegend=width_at == 1, line=dict(color=PALETTE[number], width=width), opacity=0.6,
                    hoverinfo="skip",
                )
            )  # fmt: skip
    ends = {part for source, target in result.edges for part in (source, _part(target)[0])}
    parts = sorted(ends, key=lambda part: _place(part, heads, layers)[::-1])
    into = {part: [] for part in parts}
    for (source, target), one in zip(result.edges, cost, strict=True):
        part, channel = _part(target)
        into[part].append(f"{safe(source)}{f' ({channel})' if channel else ''}: {one:.3g}")
    spots = [_place(part, heads, layers) for part in parts]
    made.add_trace(
        go.Scatter(
            x=[x for x, _ in spots], y=[y for _, y in spots], mode="markers+text", text=[safe(part) for part in parts],
            textposition="middle center", showlegend=False, textfont=dict(size=10),
            marker=dict(symbol="square", size=34, color="white", line=dict(color="black", width=1)),
            customdata=["<br>".join(into[part][:20]) or "nothing goes in" for part in parts],
            hovertemplate="<b>%{text}</b><br>%{customdata}<extra></extra>",
        )
    )  # fmt: skip
    made.update_layout(legend=dict(orientation="h", y=-0.02, yanchor="top"))
    return made


def _dots(made: go.Figure, found: Estimate, rows: Sequence[str], name: str, color: str, symbol: int) -> None:
    made.add_trace(
        go.Scatter(
            x=found.value, y=list(rows), mode="markers", name=name, customdata=hover(found),
            marker=dict(color=color, symbol=MARKERS[symbol], size=9),
            error_x=dict(
                type="data", symmetric=False, array=found.high - found.value, arrayminus=found.value - found.low
            ),
            hovertemplate="%{y}: %{customdata}<extra></extra>",
        )
    )  # fmt: skip


def _joined(parts: Sequence[Estimate]) -> Estimate:
    return Estimate(*(np.array([getattr(one, name) for one in parts]) for name in ("value", "low", "high", "p", "n")))


def _part(target: str) -> tuple[str, str]:
    """A target without its channel, and the channel."""
    name, _, channel = target.partition(".")
    return name, channel


def _place(part: str, heads: int, layers: int) -> tuple[float, float]:
    """Heads stand side by side, MLPs right of them and a little higher."""
    head = re.fullmatch(r"L(\d+)H(\d+)", part)
    if head:
        return float(head[2]), float(head[1]) + 1
    if part.startswith("mlp"):
        return float(heads), float(part[3:]) + 1.45
    return (heads - 1) / 2, float(layers + 1 if part == "logits" else 0)


def _sizes(parts: Sequence[str]) -> tuple[int, int]:
    """Heads of a layer, and layers."""
    found = [re.match(r"L(\d+)H(\d+)", part) for part in parts]
    numbers = [(int(one[1]), int(one[2])) for one in found if one]
    return max((head for _, head in numbers), default=0) + 1, max((layer for layer, _ in numbers), default=0) + 1
