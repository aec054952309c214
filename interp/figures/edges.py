"""Estimates by gradient, circuits of edges, and how well the estimates do."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.analyses.attribution_patching import AttributionPatching
from interp.analyses.edge_attribution import EdgeAttribution
from interp.analyses.edge_circuits import CircuitCurve
from interp.estimates import Estimate, mean_value, ratio
from interp.figures.curves import band
from interp.figures.grids import heat, hover
from interp.figures.theme import GREY, MARKERS, PALETTE, figure, safe
from interp.workflows.verified import Verified

_SHOWN = 30
"""Edges that are drawn."""
_HOW = {None: "gradient of the base run", "inputs": "gradients integrated over the inputs",
        "activations": "gradients integrated over the activations"}  # fmt: skip


def plot_attribution_patching(result: AttributionPatching) -> go.Figure:
    """Estimated share of the clean-corrupted difference that each patch moves; saturated cells are outlined."""
    share = result.share()
    rows = [f"layer {layer}" for layer in result.layers]
    columns = [f"{result.axis} {c}" if c.lstrip("-").isdigit() else c for c in result.columns]
    made = figure(
        f"Attribution patching of {result.site}: {safe(result.metric)}",
        f"estimated share of the difference; {_HOW[result.integrate]}; ring: hardly any gradient in most pairs",
        width=min(1400, max(620, 260 + 46 * len(columns))),
        height=200 + 34 * len(rows),
    )
    largest = float(np.nanmax(np.abs(share.value), initial=1e-9))
    made.add_trace(
        heat(
            share.value, columns, rows, said=hover(share), diverging=True, limits=(-largest, largest),
            colorbar="estimated share",
        )
    )  # fmt: skip
    layer, column = np.nonzero(result.saturated.float().mean(0).numpy() > 0.5)
    made.add_trace(
        go.Scatter(
            x=[columns[i] for i in column], y=[rows[i] for i in layer], mode="markers", name="saturated",
            marker=dict(symbol="circle-open", size=16, color="black", line=dict(width=2)), hoverinfo="skip",
            showlegend=False,
        )
    )  # fmt: skip
    return made


def plot_edge_attribution(result: EdgeAttribution) -> go.Figure:
    """The edges with the largest estimates, with intervals over pairs."""
    chosen = result.largest(_SHOWN)
    share = ratio(result.values[:, chosen], result.clean - result.corrupted, result.groups)
    names = [f"{safe(result.sources[i])} → {safe(result.targets[i])}" for i in chosen.tolist()]
    made = figure(
        f"Edge attribution: {safe(result.metric)}",
        f"estimated share of the difference, {len(names)} largest of {len(result.sources)} edges; bars 95 %; "
        f"{_HOW[result.integrate]}",
        height=160 + 20 * len(names),
        xaxis=dict(title="share of the clean-corrupted difference"),
        yaxis=dict(autorange="reversed", dtick=1),
    )
    made.add_vline(x=0, line=dict(color=GREY, width=1))
    made.add_trace(
        go.Scatter(
            x=share.value, y=names, mode="markers", marker=dict(color=PALETTE[0], size=8), showlegend=False,
            error_x=_reach(share), customdata=hover(share), hovertemplate="%{y}: %{customdata}<extra></extra>",
        )
    )  # fmt: skip
    return made


def plot_circuit_curve(result: CircuitCurve) -> go.Figure:
    """Faithfulness of growing circuits: of the order, of random ones, and by magnitude."""
    own, control, size = result.faithfulness()
    made = figure(
        f"Circuits of {result.of}: {safe(result.metric)} kept",
        f"everything else is replaced: {result.kind}; bands 95 %; CPR {result.cpr()[0]!r}, CMD {result.cmd()[0]!r}",
        xaxis=dict(title=f"{result.of} kept (of {result.total})", type="log", tickvals=list(result.sizes)),
        yaxis=dict(title="faithfulness"),
    )
    sizes = list(result.sizes)
    band(made, sizes, own, "by the given order", 0)
    band(made, sizes, size, "by magnitude", 4)
    band(made, sizes, control, f"random (mean of {result.random.shape[1]})", 6)
    made.add_hline(y=1, line=dict(color=GREY, width=1))
    return made


def plot_verified(result: Verified) -> go.Figure:
    """Estimated against real effects, means over pairs."""
    estimated, exact = mean_value(result.estimated), mean_value(result.exact)
    why = "random" if "random" in result.why else result.why[0]
    agreement = result.agreement(why)
    made = figure(
        f"Estimated and real patches: {safe(result.metric)}",
        f"{result.why.count(why)} {why} places: rank correlation {agreement['rank correlation']!r}, "
        f"same sign {agreement['same sign']!r}; line: equal",
        xaxis=dict(title=f"patched exactly ({safe(result.unit)})"),
        yaxis=dict(title=f"estimated ({safe(result.unit)})"),
    )
    ends = [float(np.nanmin([estimated, exact])), float(np.nanmax([estimated, exact]))]
    made.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line=dict(color=GREY), showlegend=False))
    for number, why in enumerate(dict.fromkeys(result.why)):
        own = result.chosen(why).numpy()
        made.add_trace(
            go.Scatter(
                x=exact[own], y=estimated[own], mode="markers", name=why,
                text=[safe(name) for name, here in zip(result.names, own, strict=True) if here],
                marker=dict(color=PALETTE[number], symbol=MARKERS[number], size=9),
                hovertemplate="%{text}: %{x:.3f}, estimated %{y:.3f}<extra></extra>",
            )
        )  # fmt: skip
    return made


def _reach(share: Estimate) -> dict[str, object]:
    return dict(
        type="data", symmetric=False, array=share.high - share.value, arrayminus=share.value - share.low, width=0
    )
