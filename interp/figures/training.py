"""Figures of a training's records: what was learned when, what each layer does, snapshot by snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from interp.estimates import Estimate, mean_value
from interp.figures.grids import heat
from interp.figures.theme import CONTROL, DASHES, MARKERS, PALETTE, rgba, safe, style
from interp.monitoring.learning import Course, Part, depth_names, simultaneous, told
from interp.monitoring.records import Recording

_MANY = 6
"""With more layers than this they are rows of a grid, not lines."""

_PARTS = ("value", "low", "high", "p", "n")


def plot_progress(recording: Recording, found: Course) -> go.Figure:
    """Accuracy, AUC and F1, and the loss, over steps; where accuracy converged, and what chance gives."""
    x, axis = _steps(recording)
    rates = not np.isnan(recording.learning_rate).all()
    rows = 3 if rates else 2
    made = make_subplots(rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.06,
                         row_heights=[0.55, 0.3, 0.15][:rows])  # fmt: skip
    _band(made, x, found.accuracy, "accuracy", 0, 1, recording)
    _band(made, x, found.auc, "AUC", 1, 1, recording)
    _line(made, x, found.f1, "F1", 2, 1, recording)
    _band(made, x, found.loss, "held-out loss", 3, 2, recording)
    if not np.isnan(recording.loss).all():
        _line(made, x, recording.loss, "training loss", 4, 2, recording)
    if rates:
        _line(made, x, recording.learning_rate, "learning rate", 6, 3, recording)
    chance = np.quantile(found.chance, 0.975)
    made.add_hline(y=float(chance), line=CONTROL, row=1, col=1)  # type: ignore[arg-type]
    if found.p < 0.05 and found.converged < len(recording) - 1:
        made.add_vline(x=float(x[found.converged]), line=dict(color="#1c1c1c", width=1.5), row="all", col=1)  # type: ignore[arg-type]
        left = x[found.converged] > (x[0] + x[-1]) / 2
        made.add_annotation(
            x=float(x[found.converged]), y=0.04, yref="y domain", showarrow=False, xanchor="right" if left else "left",
            xshift=-6 if left else 6, text=f"converged at step {recording.steps[found.converged]:,}",
        )  # fmt: skip
    style(
        made, "What the judge gets right along its training",
        "bands 95 %; dotted: the accuracy that 2.5 % of shuffled labels exceed", width=900,
        height=560 if rates else 480,
    )  # fmt: skip
    made.update_yaxes(title="share", range=[-0.03, 1.03], row=1, col=1)
    made.update_yaxes(title="nats", rangemode="tozero", row=2, col=1)
    if rates:
        made.update_yaxes(title="rate", exponentformat="power", row=3, col=1)
    made.update_xaxes(**axis, row=rows, col=1)
    for row in range(1, rows):
        made.update_xaxes(range=axis["range"], tickvals=axis["tickvals"], row=row, col=1)
    return made


def plot_separation(recording: Recording) -> go.Figure:
    """At which depth safe and unsafe are apart, over steps."""
    table, groups, names = told(recording), recording.groups, depth_names(recording)
    if recording.layers > _MANY:
        values = np.stack([mean_value(table[:, i]) for i in range(len(recording))], 1)[::-1]
        made = go.Figure(heat(values, _names(recording), names[::-1], limits=(0, 1), colorbar="share"))
        height: int = 240 + 22 * len(names)
        axis: dict[str, Any] = {"type": "category", "title": "step"}
    else:
        made = make_subplots(rows=1, cols=1)
        x, axis = _steps(recording)
        estimates = [simultaneous(table[:, i], groups, resamples=1999) for i in range(len(recording))]
        for depth, name in enumerate(names):
            part = Estimate(*(np.stack([getattr(e, f)[depth] for e in estimates]) for f in _PARTS))
            if not np.isnan(part.value).all():
                _band(made, x, part, f"after {name}" if depth else name, depth, 1, recording)
        made.add_hline(y=0.5, line=CONTROL)
        made.update_yaxes(range=[-0.03, 1.03], title="share on their own side")
        height = 420
    style(
        made, "At which depth safe and unsafe are apart", "share of texts on their own class's side at the verdict, by "
        "a direction from other groups; bands 95 % for all depths together", width=900, height=height,
    )  # fmt: skip
    made.update_xaxes(**axis)
    return made


def plot_parts(recording: Recording, rows: Sequence[Part], column: str) -> go.Figure:
    """Accuracy over steps for each value of a label, with that of all texts."""
    x, axis = _steps(recording)
    made = make_subplots(rows=1, cols=1)
    own = [row for row in rows if row.column == column]
    for i, row in enumerate(own[:12]):
        name = row.value if row.truth == "both" else f"{row.value} (all {row.truth})"
        _line(made, x, row.told, safe(name), i, 1, recording)
    made.add_trace(go.Scatter(x=x, y=rows[0].told, name="all texts", mode="lines", line=dict(color="#000", width=3)))
    made.add_hline(y=0.5, line=CONTROL)
    style(
        made, f"Which {safe(column)} is learned when", "AUC: within the texts, or, where they are of one class, "
        "against all texts of the other; dotted: chance", width=900, height=420,
    )  # fmt: skip
    made.update_yaxes(range=[-0.03, 1.03], title="AUC")
    made.update_xaxes(**axis)
    return made


def plot_activity(recording: Recording) -> go.Figure:
    """What attention and MLP of each layer add at the verdict, relative to the stream, over steps."""
    names = [f"layer {layer}" for layer in range(recording.layers)][::-1]
    made = make_subplots(
        rows=1, cols=2, subplot_titles=["attention", "MLP"], shared_yaxes=True, horizontal_spacing=0.04
    )
    parts = [np.log10(np.maximum(part.mean(1).T[::-1], 1e-3)) for part in (recording.attention, recording.mlp)]
    finite = np.concatenate([part[np.isfinite(part)] for part in parts])
    limits = (float(finite.min()), float(finite.max())) if len(finite) else (-1.0, 1.0)
    for i, part in enumerate(parts, 1):
        grid = heat(part, _names(recording), names, limits=limits, colorbar="norm / stream" if i == 2 else None)
        grid.update(
            text=None, texttemplate=None, z=part.astype(np.float32), customdata=(10**part).astype(np.float32),
            hovertemplate="%{y}, step %{x}: %{customdata:.3g}<extra></extra>",
        )  # fmt: skip
        if i == 2:
            grid.update(colorbar=dict(zip(("tickvals", "ticktext"), decades(*limits), strict=True)))
        made.add_trace(grid, row=1, col=i)
    style(
        made, "How much each layer writes", "norm of what is added at the verdict over the norm of the stream it is "
        "added to; mean over texts; colours by its logarithm", width=900, height=240 + 34 * recording.layers,
    )  # fmt: skip
    made.update_xaxes(type="category", title="step", tickangle=-60)
    return made


def plot_heads(recording: Recording) -> go.Figure:
    """Each head's three measures over steps; of many heads those that count most at the end."""
    rows = recording.head_rows
    unsafe = recording.unsafe[rows]
    looks = recording.head_attention.mean(1)
    direct, ablated = (
        part[:, unsafe].mean(1) - part[:, ~unsafe].mean(1) for part in (recording.head_direct, recording.head_ablation)
    )
    names = np.array([f"L{la}H{h}" for la in range(recording.layers) for h in range(looks.shape[2])])
    tables = [part.reshape(len(recording), -1) for part in (looks, direct, ablated)]
    order = np.argsort(-np.abs(np.nan_to_num(tables[2][-1])), kind="stable")[:16]
    titles = (
        "looks at the deciding words<br>share beyond uniform",
        "writes for unsafe directly<br>nats, unsafe − safe",
        "lost without it<br>nats, unsafe − safe",
    )
    made = make_subplots(rows=1, cols=3, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03)
    for i, part in enumerate(tables, 1):
        chosen = part[:, order].T[::-1]
        reach = 1.0 if i == 1 else float(np.nanmax(np.abs(chosen))) if np.isfinite(chosen).any() else 1.0
        grid = heat(chosen, _names(recording), names[order][::-1].tolist(), diverging=True, limits=(-reach, reach))
        made.add_trace(grid, row=1, col=i)
    style(
        made, "Which heads count", f"means over {len(unsafe)} texts; each panel has its own scale, from − (blue) to + "
        "(red); numbers on hover", width=960, height=260 + 26 * len(order),
    )  # fmt: skip
    made.update_traces(text=None, texttemplate=None)
    made.update_xaxes(type="category", title="step", tickangle=-60)
    made.update_layout(margin=dict(t=120))
    return made


def _steps(recording: Recording) -> tuple[Float[np.ndarray, " snapshot"], dict[str, Any]]:
    """Places of the snapshots and their axis: by the logarithm of 1 + step where they thin out, else even."""
    steps = recording.steps.astype(float)
    log = len(steps) > 3 and steps[-1] > 2.5 * np.median(steps[1:])
    x = np.log10(1 + steps) if log else steps
    width = max(x[-1] - x[0], 1e-9)
    shown: list[int] = []
    for i in [*range(len(x) - 1, -1, -1)]:  # the last one is always written
        if not shown or x[shown[-1]] - x[i] > 0.055 * width:
            shown.append(i)
    axis: dict[str, Any] = {
        "tickvals": x[shown], "ticktext": [f"{recording.steps[i]:,}" for i in shown],
        "title": "training step (spaced by its logarithm)" if log else "training step",
        "range": [x[0] - 0.02 * width, x[-1] + 0.02 * width],
    }  # fmt: skip
    return x, axis


def decades(low: float, high: float) -> tuple[list[float], list[str]]:
    """Round numbers on a logarithmic scale between two powers of ten."""
    shown = [digit * 10.0**power for power in range(-3, 5) for digit in (1, 3)]
    shown = [value for value in shown if low - 1e-9 <= np.log10(value) <= high + 1e-9]
    return [float(np.log10(value)) for value in shown], [f"{value:g}" for value in shown]


def _names(recording: Recording) -> list[str]:
    return [f"{step:,}" for step in recording.steps]


def _line(
    made: go.Figure, x: Float[np.ndarray, " snapshot"], y: Float[np.ndarray, " snapshot"], name: str, number: int,
    row: int, recording: Recording,
) -> None:  # fmt: skip
    made.add_trace(
        go.Scatter(
            x=x, y=y, name=name, mode="lines+markers", customdata=_names(recording),
            line=dict(color=PALETTE[number % len(PALETTE)], dash=DASHES[number % len(DASHES)], width=2),
            marker=dict(symbol=MARKERS[number % len(MARKERS)], size=6),
            hovertemplate=f"{name}, step %{{customdata}}: %{{y:.3g}}<extra></extra>",
        ), row=row, col=1,
    )  # fmt: skip


def _band(
    made: go.Figure, x: Float[np.ndarray, " snapshot"], estimate: Estimate, name: str, number: int, row: int,
    recording: Recording,
) -> None:  # fmt: skip
    color = PALETTE[number % len(PALETTE)]
    low, high = (np.where(np.isnan(end), estimate.value, end) for end in (estimate.low, estimate.high))
    made.add_trace(
        go.Scatter(
            x=[*x, *x[::-1]], y=[*high, *low[::-1]], fill="toself", mode="lines", fillcolor=rgba(color, 0.15),
            line=dict(width=0), hoverinfo="skip", showlegend=False,
        ), row=row, col=1,
    )  # fmt: skip
    _line(made, x, estimate.value, name, number, row, recording)
    trace: Any = made.data[-1]
    trace.customdata = [
        f"{step}: {value:.3f} [{a:.3f}, {b:.3f}]"
        for step, value, a, b in zip(_names(recording), estimate.value, estimate.low, estimate.high, strict=True)
    ]
    trace.hovertemplate = f"{name}, step %{{customdata}}<extra></extra>"
