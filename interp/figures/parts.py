"""What parts do: ablation, direct attribution, wiring."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.analyses.ablation import Ablation
from interp.analyses.attribution import LogitAttribution
from interp.analyses.steering import DirectionTest
from interp.analyses.weights import Composition
from interp.estimates import mean
from interp.figures.grids import heat, hover
from interp.figures.theme import GREY, MARKERS, PALETTE, figure, safe, style


def plot_ablation(result: Ablation) -> go.Figure:
    """Mean drop of every metric without each part."""
    rows = [f"layer {layer}" for layer in result.layers]
    columns = [f"{result.axis} {c}" if c.lstrip("-").isdigit() else safe(c) for c in result.columns]
    names = result.metrics
    made = make_subplots(
        rows=1, cols=len(names), subplot_titles=[f"drop in {safe(n)}" for n in names], shared_yaxes=True,
        horizontal_spacing=0.12,
    )  # fmt: skip
    for i, name in enumerate(names, 1):
        part = result.importance(metric=name)
        reach = float(np.nanmax(np.abs(np.nan_to_num(part.value)))) or 1.0
        grid = heat(part.value, columns, rows, said=hover(part), diverging=True, limits=(-reach, reach))
        made.add_trace(grid, row=1, col=i)
    style(
        made,
        f"Ablation of {result.site}: how much lower each metric is without the part",
        f"{result.kind} ablation, one part at a time, mean over {len(result.base)} prompts; intervals on hover",
        width=240 + len(names) * max(260, 64 * len(columns)),
        height=220 + 40 * len(rows),
    )
    made.update_layout(margin=dict(t=110))
    return made


def plot_importance(result: Ablation, groups: Mapping[str, np.ndarray], metric: str) -> go.Figure:
    """Mean drop of one metric without each head, on several subsets of the prompts side by side."""
    names = [f"L{layer}H{column}" for layer in result.layers for column in result.columns]
    parts = [result.importance(kept, metric=metric) for kept in groups.values()]
    grid = np.stack([part.value.reshape(-1) for part in parts], 1)
    said = np.stack([hover(part).reshape(-1) for part in parts], 1)
    counts = [f"{name} ({int(kept.sum())})" for name, kept in groups.items()]
    reach = float(np.nanmax(np.abs(np.nan_to_num(grid)))) or 1.0
    made = go.Figure(
        heat(grid, counts, names, said=said, diverging=True, limits=(-reach, reach), colorbar=f"drop in {safe(metric)}")
    )
    style(
        made,
        f"Ablation of {result.site}: drop in {safe(metric)} by kind of problem",
        f"{result.kind} ablation, one head at a time; in brackets the number of problems; intervals on hover",
        width=max(560, 260 + 90 * len(counts)),
        height=240 + 28 * len(names),
    )
    made.update_yaxes(autorange="reversed")
    return made


def plot_direction_test(result: DirectionTest) -> go.Figure:
    """Mean change of the metric under each edit along the direction, beside random directions."""
    own, control, _ = result.effect()
    made = figure(
        f"{safe(result.source)}",
        f"mean change of {safe(result.metric)} over {len(result.base)} prompts at {safe(result.site)}, beside "
        f"{result.random.shape[2]} random directions of the same length; bars 95 %",
        width=max(520, 260 + 120 * len(result.edits)),
        height=420,
        yaxis=dict(title=f"change of {safe(result.metric)}"),
    )
    for number, (name, part) in enumerate((("direction", own), ("random directions", control))):
        made.add_trace(
            go.Scatter(
                x=list(result.edits), y=part.value, name=name, mode="markers",
                marker=dict(color=PALETTE[(0, 6)[number]], symbol=MARKERS[number], size=11),
                error_y=dict(
                    type="data", symmetric=False, array=part.high - part.value, arrayminus=part.value - part.low,
                    color=GREY, thickness=1.4, width=5,
                ),
                customdata=hover(part), hovertemplate="%{x}: %{customdata}<extra></extra>",
            )
        )  # fmt: skip
    made.add_hline(y=0, line=dict(color=GREY, width=1))
    return made


def plot_attribution(result: LogitAttribution) -> go.Figure:
    """Mean share of each component in the metric, with its interval, in the order of the stream."""
    found = mean(result.values, result.groups)
    total = mean(result.total, result.groups)
    made = figure(
        f"Direct logit attribution by {result.split}",
        f"what each part itself adds to the answer ({result.unit}); all bars sum to {float(total.value):.2f}",
        width=max(640, 180 + 34 * len(result.components)),
        height=440,
        yaxis=dict(title=result.unit),
    )
    made.add_trace(
        go.Bar(
            x=list(result.components), y=found.value, marker=dict(color=PALETTE[0]), showlegend=False,
            error_y=dict(
                type="data", symmetric=False, array=found.high - found.value, arrayminus=found.value - found.low,
                color=GREY, thickness=1.2, width=3,
            ),
            customdata=hover(found), hovertemplate="%{x}: %{customdata}<extra></extra>",
        )
    )  # fmt: skip
    return made


def plot_composition(result: Composition) -> go.Figure:
    """How far each pair of heads composes beyond random rotations, in standard deviations of these."""
    z = result.z.numpy().astype(float)
    layers, heads = z.shape[:2]
    grid = z.reshape(layers * heads, layers * heads)
    names = [f"L{layer}H{head}" for layer in range(layers) for head in range(heads)]
    # Heads of the last layer are never the earlier ones, heads of the first never the later ones.
    shown = grid[:-heads, heads:]
    reach = float(np.nanmax(np.abs(shown))) if shown.size else 1.0
    made = go.Figure(
        heat(
            shown, names[heads:], names[:-heads], diverging=True, limits=(-reach, reach), digits=1,
            colorbar="standard deviations",
        )
    )  # fmt: skip
    style(
        made,
        f"{result.through}-composition: which later head reads what an earlier one writes",
        f"score beyond {len(result.random)} random rotations, in their standard deviations; weights alone, no prompt",
        width=260 + 60 * shown.shape[1],
        height=240 + 32 * shown.shape[0],
    )
    made.update_xaxes(title="later head")
    made.update_yaxes(title="earlier head", autorange="reversed")
    return made
