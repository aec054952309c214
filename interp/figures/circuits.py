"""What heads, neurons and steps are for: discoveries, selective neurons, steps and the digits they write."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.analyses.ablation import StepAblation
from interp.analyses.selectivity import Selectivity
from interp.estimates import mean
from interp.figures.grids import heat, hover
from interp.figures.theme import GREY, MARKERS, PALETTE, figure, rgba, safe, style
from interp.workflows.discovery import Discovery


def plot_discovery(result: Discovery) -> go.Figure:
    """Effect less control of every head on every task, as estimated on the other half; a ring marks what was found."""
    names = [f"L{layer}H{head}" for layer in result.layers for head in result.heads]
    shape = (len(names), len(result.tasks))
    value, low, high = (x.reshape(shape) for x in result.difference.double().numpy().transpose(3, 0, 1, 2))
    q, found = result.q.double().numpy().reshape(shape), result.found().numpy().reshape(shape)
    said = np.empty(shape, dtype=object)
    for row, column in np.ndindex(shape):
        said[row, column] = (
            f"{value[row, column]:.3f} [{low[row, column]:.3f}, {high[row, column]:.3f}], "
            f"q = {q[row, column]:.3f}, n = {int(result.n[column])}"
        )
    reach = float(np.nanmax(np.abs(np.nan_to_num(value)))) or 1.0
    made = go.Figure(
        heat(value, result.tasks, names, said=said, diverging=True, limits=(-reach, reach), colorbar="difference")
    )
    here = np.argwhere(found)
    made.add_trace(
        go.Scatter(
            x=[safe(result.tasks[c]) for _, c in here], y=[names[r] for r, _ in here], mode="markers", hoverinfo="skip",
            marker=dict(symbol="circle-open", size=34, line=dict(width=2, color="black")), showlegend=False,
        )
    )  # fmt: skip
    style(
        made,
        f"Effect of each head, less {safe(result.control_name)}",
        f"{safe(result.unit)}; estimated on one half of the problems; ringed: found on the other half (q ≤ "
        f"{result.level:g}) and confirmed here, at least {result.minimum:g}",
        width=max(620, 260 + 74 * len(result.tasks)),
        height=240 + 30 * len(names),
    )
    made.update_yaxes(autorange="reversed")
    made.update_layout(margin=dict(b=130))
    return made


def plot_selectivity(result: Selectivity) -> go.Figure:
    """Every neuron's effect size on the searching half and on the other; what was found stands out."""
    found = result.found().numpy().reshape(-1)
    first, again = (x.numpy().reshape(-1) for x in (result.effect, result.confirmed_effect))
    width = result.effect.shape[1]
    neurons = np.array([f"L{layer}N{i}" for layer in result.layers for i in range(width)])
    prefers = np.array([(*result.classes, "")[i] for i in result.prefers.reshape(-1).tolist()])
    made = figure(
        f"Neurons that tell {safe(result.label)} apart at {safe(result.position)}",
        f"share of variance between its values (eta squared) on two halves; {int(found.sum())} of {len(found)} found "
        "and confirmed",
        width=640,
        height=480,
        xaxis=dict(title="searching half", range=[-0.03, 1.03]),
        yaxis=dict(title="other half", range=[-0.03, 1.03]),
    )
    made.add_shape(type="line", x0=0, y0=0, x1=1, y1=1, line=dict(color=GREY, width=1, dash="dot"))
    for kept, name, color, symbol in (
        (~found, "not found", rgba(PALETTE[6], 0.5), MARKERS[1]),
        (found, "found and confirmed", PALETTE[0], MARKERS[0]),
    ):
        made.add_trace(
            go.Scatter(
                x=first[kept], y=again[kept], mode="markers", name=name,
                marker=dict(color=color, symbol=symbol, size=7),
                customdata=np.stack([neurons[kept], prefers[kept]], -1),
                hovertemplate="%{customdata[0]}, highest for %{customdata[1]}: %{x:.2f}, %{y:.2f}<extra></extra>",
            )
        )  # fmt: skip
    return made


def plot_steps(result: StepAblation) -> go.Figure:
    """Mean drop of every metric without the computation at each position."""
    found = mean(result.drop(), result.groups)
    short = [name.removeprefix("exact_match ") for name in result.metrics]
    reach = float(np.nanmax(np.abs(np.nan_to_num(found.value)))) or 1.0
    made = go.Figure(
        heat(
            found.value, short, result.positions, said=hover(found), diverging=True, limits=(-reach, reach),
            colorbar="drop",
        )
    )  # fmt: skip
    style(
        made,
        "Which answer tokens break when one step stops computing",
        f"{result.kind} ablation of {' and '.join(map(safe, result.sites))} in every layer at one position; "
        f"drop in the share right; {len(result.base)} prompts; intervals on hover",
        width=max(620, 300 + 74 * len(short)),
        height=240 + 34 * len(result.positions),
    )
    made.update_xaxes(title="answer token")
    made.update_yaxes(title="position ablated", autorange="reversed")
    made.update_layout(margin=dict(b=130))
    return made
