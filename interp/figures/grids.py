"""Grids of numbers: patching results and head scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from interp.analyses.attention import AttentionStatistics
from interp.analyses.heads import HeadScores
from interp.analyses.patching import Patching
from interp.estimates import Estimate, mean_value
from interp.figures.theme import DIVERGING, SEQUENTIAL, safe, style


def heat(
    values: NDArray[np.float64],
    x: Sequence[str],
    y: Sequence[str],
    *,
    said: NDArray[np.object_] | None = None,
    diverging: bool = False,
    limits: tuple[float, float] | None = None,
    digits: int = 2,
    colorbar: str | None = None,
) -> go.Heatmap:
    """A heat map with its numbers written in the cells, as long as they fit."""
    found = values[~np.isnan(values)]
    low, high = limits or ((float(found.min()), float(found.max())) if len(found) else (0.0, 1.0))
    crowded = values.shape[1] > 16 or values.shape[0] > 24
    text = np.where(np.isnan(values), "", np.char.mod(f"%.{digits}f", np.nan_to_num(values)))
    return go.Heatmap(
        z=values,
        x=[safe(v) for v in x],
        y=[safe(v) for v in y],
        zmin=low,
        zmax=high,
        colorscale=DIVERGING if diverging else SEQUENTIAL,
        text=None if crowded else text,
        texttemplate=None if crowded else "%{text}",
        textfont=dict(size=11),
        customdata=said,
        hovertemplate="%{y}, %{x}: " + ("%{customdata}" if said is not None else "%{z:.3f}") + "<extra></extra>",
        showscale=colorbar is not None,
        colorbar=_colorbar(colorbar) if colorbar else None,
        xgap=1,
        ygap=1,
    )  # fmt: skip


def hover(estimate: Estimate) -> NDArray[np.object_]:
    """What a cell says when it is pointed at: value, interval and n."""
    shown = np.empty(estimate.value.shape, dtype=object)
    for index in np.ndindex(*estimate.value.shape):
        low, high = estimate.low[index], estimate.high[index]
        shown[index] = f"{estimate.value[index]:.3f} [{low:.3f}, {high:.3f}], n = {estimate.n[index]}"
    return shown


def _colorbar(title: str) -> dict[str, Any]:
    return dict(title=dict(text=title, side="right"), thickness=12, len=150, lenmode="pixels")


def plot_patching(result: Patching) -> go.Figure:
    """Share of the clean-corrupted difference moved by each patch, beside the control."""
    own, control = result.share(), result.share(control=True)
    rows = [f"layer {layer}" for layer in result.layers]
    columns = [f"{result.axis} {c}" if c.lstrip("-").isdigit() else c for c in result.columns]
    both = not np.isnan(control.value).all()
    titles = ["patched from its own clean run" if result.direction == "denoising" else "patched from its corrupted run"]
    titles += ["control: patched from another pair"] if both else []
    stacked = len(columns) > 6
    down, across = (len(titles), 1) if stacked else (1, len(titles))
    made = make_subplots(
        rows=down, cols=across, subplot_titles=titles, shared_yaxes=not stacked, shared_xaxes=stacked,
        horizontal_spacing=0.04, vertical_spacing=0.3 / down,
    )  # fmt: skip
    for i, part in enumerate([own, control][: len(titles)]):
        grid = heat(
            part.value, columns, rows, said=hover(part), diverging=True, limits=(-1, 1),
            colorbar="share moved" if i == 0 else None,
        )  # fmt: skip
        made.add_trace(grid, row=1 + (i if stacked else 0), col=1 + (0 if stacked else i))
    verb = {"denoising": "restores", "noising": "destroys"}[result.direction]
    style(
        made,
        f"Patching {result.site}: what share of the {result.metric} difference each place {verb}",
        f"{result.direction}; ratio of means over {len(result.clean)} pairs; intervals on hover; "
        + ("shares do not add up" if both else "no control: none asked for, or no other pair with a different answer"),
        width=max(660, 220 + across * (60 + 60 * min(len(columns), 14))),
        height=220 + down * (50 + 36 * len(rows)),
    )
    made.update_layout(margin=dict(t=110, b=90))
    return made


def plot_head_scores(result: HeadScores) -> go.Figure:
    """Every head's mean score on every job, above what uniform attention gives."""
    values, uniform = mean_value(result.values), mean_value(result.uniform)
    rows = [f"L{layer}H{head}" for layer in result.layers for head in range(values.shape[1])]
    grid = np.vstack([values.reshape(-1, values.shape[-1]), uniform])
    made = go.Figure(heat(grid, result.scores, [*rows, "uniform"], limits=(0, 1), colorbar="share of attention"))
    style(
        made,
        "Head scores: share of attention on the keys of each job",
        f"mean over {len(result.values)} prompts; the last row is uniform attention over the allowed keys",
        width=max(560, 260 + 86 * len(result.scores)),
        height=220 + 26 * len(rows),
    )
    made.update_yaxes(autorange="reversed")
    made.update_layout(margin=dict(b=110))
    return made


def plot_attention_statistics(result: AttentionStatistics, prompt: int | None = None) -> go.Figure:
    """Entropy, distance and attention to the first token of every head, over all prompts or for one of them."""
    chosen = slice(None) if prompt is None else slice(prompt, prompt + 1)
    parts = (
        ("entropy (nats)", result.entropy, result.uniform_entropy, 2),
        ("distance (tokens)", result.distance, result.uniform_distance, 1),
        ("on the first token (share)", result.first, result.uniform_first, 2),
    )
    titles = [f"{name}<br>uniform: {mean_value(u[chosen]):.2f}" for name, _, u, _ in parts]
    made = make_subplots(rows=1, cols=3, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.05)
    rows = [f"layer {layer}" for layer in result.layers]
    for i, (_, values, _, digits) in enumerate(parts, 1):
        grid = mean_value(values[chosen])
        columns = [f"head {h}" for h in range(grid.shape[1])]
        made.add_trace(heat(grid, columns, rows, digits=digits), row=1, col=i)
    style(
        made,
        "Attention statistics of every head",
        "mean over all queries but the first"
        + (f" and {len(result.entropy)} prompts" if prompt is None else ", one prompt"),
        width=980,
        height=240 + 34 * len(rows),
    )
    made.update_layout(margin=dict(t=130))
    return made


def plot_learned_heads(result: HeadScores, untrained: Sequence[HeadScores]) -> go.Figure:
    """Every head's mean score on every job, with the best head of the untrained models beneath."""
    made = plot_head_scores(result)
    if not untrained:
        return made
    means = np.stack([mean_value(other.values) for other in untrained])
    best = np.where(np.isnan(means), -np.inf, means).max(axis=(1, 2))
    best = np.where(np.isinf(best), np.nan, best)
    grid: go.Heatmap = made.data[0]  # type: ignore[assignment]
    values = np.vstack([np.asarray(grid.z, dtype=float), best.mean(0)])
    rows = [*(grid.y or ()), "best untrained"]
    made.data = ()
    made.add_trace(heat(values, result.scores, rows, limits=(0, 1), colorbar="share of attention"))
    made.update_layout(
        title_subtitle_text=f"mean over {len(result.values)} prompts; below: uniform attention, and the best head of "
        f"untrained models (mean of {len(untrained)} seeds)",
        height=int(getattr(made.layout, "height", None) or 400) + 26,
    )
    return made


def plot_patching_of_pair(result: Patching, clean: str, corrupted: str, tokens: Sequence[str]) -> go.Figure:
    """The raw metric of one pair under every patch, by layer and token."""
    values = result.patched[0].numpy().astype(float)
    names = [f"{token} @{i}" for i, token in enumerate(tokens)][: values.shape[1]]
    reach = float(np.nanmax(np.abs([values.min(), values.max(), float(result.clean[0]), float(result.corrupted[0])])))
    made = go.Figure(
        heat(
            values, names, [f"layer {layer}" for layer in result.layers], diverging=True, limits=(-reach, reach),
            colorbar=f"{result.metric} ({result.unit})",
        )
    )  # fmt: skip
    style(
        made,
        f"Patching {result.site} of {safe(clean)} into {safe(corrupted)}",
        f"{result.metric} for the clean answer: clean {float(result.clean[0]):.2f}, corrupted "
        f"{float(result.corrupted[0]):.2f}; one pair, so no interval",
        width=max(620, 240 + 56 * len(names)),
        height=220 + 40 * len(result.layers),
    )
    return made
