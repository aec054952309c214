"""Features over a benchmark: where they are active, what tells harm from its contrasts, and what graphs share."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.circuits.feature_causal import Intervention
from interp.circuits.feature_contrast import ALL, FeatureContrast
from interp.circuits.motif_contrast import MotifContrast
from interp.circuits.triads import TriadNull
from interp.circuits.usage import Usage
from interp.figures.grids import heat
from interp.figures.theme import GREY, MARKERS, PALETTE, figure, rgba, safe, style

_ROWS = 40
"""Features or motifs in one figure, at most."""
_ROOM = dict(b=76)
"""For the title of the axis."""


def plot_usage(result: Usage, most: int = _ROWS) -> go.Figure:
    """The features that matter most to some group, over all groups: frequency times mean activation."""
    importance = result.importance
    order = np.argsort(-importance.max(0), kind="stable")[:most]
    shown = importance[:, order].T
    said = np.empty(shown.shape, dtype=object)
    for row, column in np.ndindex(*shown.shape):
        one, mean = result.frequency[column, order[row]], result.mean[column, order[row]]
        said[row, column] = (
            f"importance {shown[row, column]:.3g}; active in {one.value:.0%} [{one.low:.0%}, {one.high:.0%}] of "
            f"{result.prompts[column]}, mean {mean.value:.3g}"
        )
    names = [name.replace("_", " ") for name in result.groups]
    top = float(shown.max()) if shown.size else 1.0
    made = go.Figure(
        heat(shown, names, [result.names[i] for i in order], said=said, limits=(0, top or 1), colorbar="importance")
    )
    style(
        made, "Features over groups of prompts",
        f"share of prompts with the feature times its mean largest activation; the {len(order)} with the largest value "
        f"in any group, of {len(result.features)}",
        width=max(680, 220 + 62 * len(names)), height=280 + 17 * len(order),
    )  # fmt: skip
    made.update_yaxes(autorange="reversed", dtick=1, tickfont=dict(size=10))
    made.update_xaxes(tickangle=-35, tickfont=dict(size=11))  # names end under their columns, so that none is cut off
    return made


def plot_feature_contrast(result: FeatureContrast) -> go.Figure:
    """Mean activation on harmful requests beside that on their safe contrasts, on triples with no part in the choice.

    On the diagonal a feature is the same on both.
    """
    kept = result.part > 0
    x, y = result.safe[kept].mean(0), result.harmful[kept].mean(0)
    confirmed = result.confirmed
    alone = result.survives_safe & ~confirmed
    found = result.discovered & ~alone & ~confirmed
    title = "all categories" if result.category == ALL else result.category.replace("_", " ")
    top = 1.05 * float(max(x.max(initial=0), y.max(initial=0))) or 1.0
    made = figure(
        f"Harmful requests and their safe contrasts: {safe(title)}",
        f"mean of the largest activations over {int(kept.sum())} triples that had no part in the choice; "
        f"{int(result.discovered.sum())} features discovered, {int(confirmed.sum())} confirmed against both contrasts",
        width=680, height=580, xaxis=dict(title="safe contrasts", range=[-0.02 * top, top]),
        yaxis=dict(title="harmful requests", range=[-0.02 * top, top]), margin=_ROOM,
    )  # fmt: skip
    made.add_shape(type="line", x0=0, y0=0, x1=top, y1=top, line=dict(color=GREY, width=1, dash="dot"))
    names = np.array(result.names)
    for chosen, name, color, symbol, size in (
        (~(found | alone | confirmed), "not discovered", rgba(PALETTE[6], 0.35), MARKERS[1], 5),
        (found, "discovered, not confirmed", PALETTE[1], MARKERS[1], 6),
        (alone, "survives the safe contrast alone", PALETTE[2], MARKERS[2], 8),
        (confirmed, "confirmed against both", PALETTE[0], MARKERS[0], 9),
    ):
        made.add_trace(
            go.Scatter(
                x=x[chosen], y=y[chosen], mode="markers", name=f"{name} ({int(chosen.sum())})", text=names[chosen],
                marker=dict(color=color, symbol=symbol, size=size),
                hovertemplate="%{text}: %{y:.3g} on harmful, %{x:.3g} on safe<extra></extra>",
            )
        )  # fmt: skip
    return made


def plot_motif_contrast(result: MotifContrast, most: int = 25) -> go.Figure:
    """Sets of edges: shares of the two sides of pairs that had no part in the choice; confirmed ones first.

    Of sets that are in the very same prompts the first stands for all.
    """
    confirmed, sides = result.confirmed, result.sides()
    order, alike = result.distinct()
    order = order[:most][::-1]
    rows = np.arange(len(order), dtype=float)
    made = go.Figure()
    for side, name, number, shift in ((sides[0], result.names[0], 0, 0.14), (sides[1], result.names[1], 1, -0.14)):
        one = side[order]
        made.add_trace(
            go.Scatter(
                x=one.value, y=rows + shift, mode="markers", name=name,
                marker=dict(color=PALETTE[number], symbol=MARKERS[number], size=7),
                error_x=dict(
                    type="data", symmetric=False, array=one.high - one.value, arrayminus=one.value - one.low,
                    thickness=1, width=0,
                ),
                hovertemplate="%{x:.0%}<extra></extra>",
            )
        )  # fmt: skip
    labels = [
        ("✓ " if confirmed[i] else "") + safe(_cut(result.motifs[i])) + (f" and {alike[i]} more" if alike[i] else "")
        for i in order
    ]
    style(
        made, "Sets of edges in both kinds of graphs",
        f"share of prompts with its 95 % interval, on pairs that had no part in the choice; {int(confirmed.sum())} of "
        f"{len(result.motifs)} confirmed (✓); “more” are in the same prompts",
        width=900, height=240 + 24 * max(1, len(order)), margin=_ROOM,
    )  # fmt: skip
    made.update_yaxes(
        tickmode="array", tickvals=rows, ticktext=labels, tickfont=dict(size=10), range=[-0.7, len(order) - 0.3]
    )
    made.update_xaxes(title="share of prompts", range=[-0.03, 1.03], tickformat=".0%")
    return made


def plot_triads(result: TriadNull, most: int = 25) -> go.Figure:
    """How often each class of three nodes occurs, over what rewired graphs have; a star marks q at most 0.05."""
    frame = result.to_frame()
    expected = frame["expected"].to_numpy()
    frame = frame[expected > 0]
    frame = frame.assign(ratio=frame["count"] / frame["expected"]).sort_values("count", ascending=False)[:most][::-1]
    made = go.Figure()
    rows = np.arange(len(frame), dtype=float)
    low, high = (frame[name] / frame["expected"] for name in ("null_low", "null_high"))
    made.add_trace(
        go.Scatter(
            x=np.ones(len(frame)), y=rows, mode="markers", name="rewired graphs (95 %)",
            marker=dict(color=GREY, symbol=MARKERS[1], size=5),
            error_x=dict(type="data", symmetric=False, array=high - 1, arrayminus=1 - low, thickness=4, width=0),
            hoverinfo="skip",
        )
    )  # fmt: skip
    sure = (frame["q"] <= 0.05).to_numpy()
    for chosen, name, color, symbol in ((sure, "q ≤ 0.05", PALETTE[0], 0), (~sure, "q above 0.05", PALETTE[4], 2)):
        some = frame[chosen]
        made.add_trace(
            go.Scatter(
                x=some["ratio"], y=rows[chosen], mode="markers", name=f"these graphs, {name}",
                marker=dict(color=color, symbol=MARKERS[symbol], size=8),
                customdata=some[["count", "expected", "q"]].to_numpy(),
                hovertemplate="%{customdata[0]:.0f}, expected %{customdata[1]:.1f}, q %{customdata[2]:.2g}"
                "<extra></extra>",
            )
        )  # fmt: skip
    labels = [("★ " if one else "") + safe(name) for one, name in zip(sure, frame["triad"], strict=True)]
    style(
        made, "Patterns of three nodes beside rewired graphs",
        f"count over what {len(result.null)} rewired copies have on average, the {len(frame)} most frequent; ★: q ≤ "
        "0.05 over all classes",
        width=900, height=240 + 22 * max(1, len(frame)), margin=_ROOM,
    )  # fmt: skip
    made.update_yaxes(
        tickmode="array", tickvals=rows, ticktext=labels, tickfont=dict(size=10), range=[-0.7, len(frame) - 0.3]
    )
    made.update_xaxes(title="count over expected")
    return made


def plot_intervention(result: Intervention) -> go.Figure:
    """Mean change of the log-odds of refusal: the intervention as a line, its controls as bars."""
    own = result.effect()
    others = (result.sign * (result.controls - result.base[:, None])).mean(0)
    ends = [float(one) for one in (*others, own.value, own.low, own.high, 0.0) if np.isfinite(one)]
    low, high = min(ends), max(ends)
    room = 0.05 * (high - low) or 1.0
    edges = np.linspace(low, high, 41) if high > low else np.array([low - 0.5, low + 0.5])
    count, _ = np.histogram(others, edges)
    made = figure(
        safe(result.what[:1].upper() + result.what[1:]),
        f"mean change of the log-odds of refusal over {len(result.base)} prompts with its 95 % interval, "
        f"{'lower' if result.sign < 0 else 'higher'} is to the right; p = {result.p:.2g} among "
        f"{len(others)} {safe(result.control_name)}",
        width=760, height=400, xaxis=dict(title="change, logits", range=[low - room, high + room]),
        yaxis=dict(title=f"number of {safe(result.control_name)}"), bargap=0, margin=_ROOM,
    )  # fmt: skip
    made.add_trace(
        go.Bar(x=(edges[1:] + edges[:-1]) / 2, y=count, marker_color=PALETTE[6], name=safe(result.control_name))
    )
    if np.isfinite(own.low):
        color = rgba(PALETTE[0], 0.15)
        made.add_vrect(x0=float(own.low), x1=float(own.high), fillcolor=color, line_width=0, layer="below")
    made.add_vline(x=float(own.value), line=dict(color=PALETTE[0], width=3))
    made.add_annotation(
        x=float(own.value), y=1, yref="paper", text=f"{own.value:.2f} [{own.low:.2f}, {own.high:.2f}]",
        showarrow=False, yanchor="bottom",
    )  # fmt: skip
    return made


def _cut(text: str, most: int = 78) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
