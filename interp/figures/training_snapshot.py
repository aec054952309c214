"""Figures of one snapshot of a training: safe and unsafe texts layer by layer, head by head, and a single text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from interp.estimates import Estimate, mean, mean_value
from interp.figures.theme import CONTROL, PALETTE, style
from interp.figures.training import decades
from interp.monitoring.learning import depth_names, simultaneous, told
from interp.monitoring.records import Recording

UNSAFE, SAFE = PALETTE[1], PALETTE[0]


def plot_layers(recording: Recording, snapshots: Sequence[int]) -> go.Figure:
    """Safe against unsafe texts by layer at one snapshot; a frame for each of these snapshots."""
    panels = ["attention writes", "MLP writes", "apart at the verdict"]
    pairs = bool(recording.moved.shape[1])
    panels += ["carried by copies"] if pairs else []
    made = make_subplots(rows=1, cols=len(panels), subplot_titles=panels, horizontal_spacing=0.07)
    first = _layer_traces(recording, snapshots[0])
    for trace, column in first:
        made.add_trace(trace, row=1, col=column)
    made.frames = [
        go.Frame(data=[_changing(trace) for trace, _ in _layer_traces(recording, at)], name=str(at),
                 traces=list(range(len(first))))
        for at in snapshots
    ]  # fmt: skip
    style(made, "Safe and unsafe texts, layer by layer", "bars 95 %", width=1000, height=400)
    for i, part in enumerate((recording.attention, recording.mlp), 1):
        _logarithmic(made, part.mean(1), i)
    made.update_xaxes(type="category", title="layer", title_standoff=4)
    for i in (1, 2):
        made.update_xaxes(range=[-0.5, recording.layers - 0.5], row=1, col=i)
    made.update_yaxes(range=[0, 1.05], title="share on own side", row=1, col=3)
    made.add_hline(y=0.5, line=CONTROL, row=1, col=3)  # type: ignore[arg-type]
    if pairs:
        reach = float(np.nanmax(np.abs(recording.moved.mean(1)))) * 1.3 if np.isfinite(recording.moved).any() else 1
        made.update_yaxes(range=[-0.25 * reach, max(reach, 0.1)], title="nats", row=1, col=4)
    made.update_layout(legend=dict(orientation="h", y=-0.3), margin=dict(t=110))
    return made


def plot_sample_layers(recording: Recording, snapshot: int, text: int) -> go.Figure:
    """One text by layer at one snapshot, among the others of its class and those of the other."""
    unsafe = recording.unsafe
    layers, depths = [f"layer {i}" for i in range(recording.layers)], list(depth_names(recording))
    titles = ["attention writes", "MLP writes", "side of safe (−) or unsafe (+)"]
    made = make_subplots(rows=1, cols=3, subplot_titles=titles, horizontal_spacing=0.07)
    parts = ((recording.attention, layers), (recording.mlp, layers), (recording.separation, depths))
    for i, (table, names) in enumerate(parts, 1):
        for side, name, color in ((True, "unsafe texts", UNSAFE), (False, "safe texts", SAFE)):
            low, middle, high = np.quantile(table[snapshot][unsafe == side], [0.25, 0.5, 0.75], axis=0)
            made.add_trace(
                go.Scatter(
                    x=names, y=middle, error_y=dict(type="data", array=high - middle, arrayminus=middle - low),
                    name=name, mode="markers", showlegend=i == 1, marker=dict(color=color, **_MARKS[side]),
                ), row=1, col=i,
            )  # fmt: skip
        made.add_trace(
            go.Scatter(x=names, y=table[snapshot, text], name="this text", mode="lines+markers", showlegend=i == 1,
                       line=dict(color="#1c1c1c", width=2), marker=dict(symbol="diamond", size=9)), row=1, col=i,
        )  # fmt: skip
    style(made, f"One text by layer at step {recording.steps[snapshot]:,}", "at the verdict; marks and bars: median "
          "and quartiles over the texts of a class", width=1000, height=420)  # fmt: skip
    for i, part in enumerate((recording.attention, recording.mlp), 1):
        _logarithmic(made, part[snapshot], i)
    made.update_xaxes(type="category")
    made.update_yaxes(title="standard deviations", row=1, col=3)
    made.update_layout(legend=dict(orientation="h", y=-0.2), margin=dict(t=110))
    return made


def plot_heads_at(recording: Recording, at: int) -> go.Figure:
    """What heads write and what is lost without them, on unsafe and on safe texts; of many those that count most."""
    some = recording.head_direct.shape[1]
    rows = recording.head_rows
    unsafe, groups = recording.unsafe[rows], recording.groups[rows]
    direct, ablated = (table[at].reshape(some, -1) for table in (recording.head_direct, recording.head_ablation))
    count = recording.head_direct.shape[3]
    order = np.argsort(
        -np.nan_to_num(np.abs(mean_value(ablated[unsafe]) - mean_value(ablated[~unsafe]))), kind="stable"
    )
    order = np.sort(order[:16])
    names = [f"L{i // count}H{i % count}" for i in order.tolist()]
    titles = ["writes directly", "lost without it"]
    made = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.08)
    for column, table in enumerate((direct, ablated), 1):
        for side, name, color in ((True, "unsafe texts", UNSAFE), (False, "safe texts", SAFE)):
            part = mean(table[unsafe == side][:, order], groups[unsafe == side])
            made.add_trace(_points(names, part, name, color, column == 1), row=1, col=column)
        made.add_hline(y=0, line=CONTROL, row=1, col=column)  # type: ignore[arg-type]
    style(made, "Safe and unsafe texts, head by head", f"nats of the log-odds of unsafe; means over {some} texts, bars "
          "95 %", width=1000, height=400)  # fmt: skip
    made.update_yaxes(title="nats", row=1, col=1)
    made.update_layout(legend=dict(orientation="h", y=-0.2), margin=dict(t=110))
    return made


def _logarithmic(made: go.Figure, values: Float[np.ndarray, "row layer"], column: int) -> None:
    """A logarithmic axis that holds these norms."""
    found = np.log10(values[np.isfinite(values) & (values > 0)])
    low, high = (float(found.min()), float(found.max())) if len(found) else (-1.0, 1.0)
    ticks, texts = decades(low - 0.5, high + 0.5)
    made.update_yaxes(
        type="log", range=[low - 0.4, high + 0.4], tickvals=[10**tick for tick in ticks], ticktext=texts,
        title="norm / stream" if column == 1 else None, row=1, col=column,
    )  # fmt: skip


def _layer_traces(recording: Recording, at: int) -> list[tuple[Any, int]]:
    unsafe, groups = recording.unsafe, recording.groups
    layers, depths = [str(i) for i in range(recording.layers)], ["embed", *(str(i) for i in range(recording.layers))]
    found: list[tuple[Any, int]] = []
    for column, table in ((1, recording.attention[at]), (2, recording.mlp[at])):
        for side, name, color in ((True, "unsafe", UNSAFE), (False, "safe", SAFE)):
            part = mean(table[unsafe == side], groups[unsafe == side])
            found.append((_points(layers, part, f"{name} texts", color, column == 1), column))
    found.append((_bars(depths, simultaneous(told(recording)[:, at], recording.groups, resamples=999),
                        "all texts", PALETTE[2], False), 3))  # fmt: skip
    if recording.moved.shape[1]:
        pairs = recording.pair_groups
        found.append((_bars(layers, mean(recording.moved[at], pairs), "pairs", PALETTE[3], False), 4))
    return found


def _bars(names: list[str], part: Estimate, name: str, color: str, legend: bool) -> go.Bar:
    return go.Bar(
        x=names, y=part.value.astype(np.float32), name=name, showlegend=legend, marker=dict(color=color),
        hovertemplate="layer %{x}: %{y:.3f}<extra></extra>", error_y=_errors(part),
    )  # fmt: skip


def _points(names: list[str], part: Estimate, name: str, color: str, legend: bool) -> go.Scatter:
    return go.Scatter(
        x=names, y=part.value.astype(np.float32), name=name, legendgroup=name, showlegend=legend, mode="markers",
        marker=dict(color=color, **_MARKS[name.startswith("unsafe")]),
        hovertemplate=f"{name}, layer %{{x}}: %{{y:.3f}}<extra></extra>", error_y=_errors(part),
    )  # fmt: skip


_MARKS = {True: dict(symbol="square-open", size=13, line_width=2), False: dict(symbol="circle", size=7)}


def _changing(trace: Any) -> Any:
    """What differs between snapshots, for a frame."""
    parts = {"array": trace.error_y.array, "arrayminus": trace.error_y.arrayminus}
    return type(trace)(y=trace.y, error_y=parts)


def _errors(part: Estimate) -> dict[str, Any]:
    above, below = ((part.high - part.value).astype(np.float32), (part.value - part.low).astype(np.float32))
    return dict(type="data", array=above, arrayminus=below, thickness=1.2)
