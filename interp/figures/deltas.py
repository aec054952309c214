"""The trace of a control token: size, dimension and direct effect of its delta, beside the neutral tokens'."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.subplots import make_subplots
from torch import Tensor

from interp.analyses.delta_lens import DeltaLens
from interp.analyses.delta_rank import DeltaRank
from interp.analyses.deltas import DeltaNorms, Measure
from interp.analyses.prefix_contrast import PrefixContrast
from interp.estimates import Estimate, mean, mean_value
from interp.figures.grids import hover
from interp.figures.theme import CONTROL, DASHES, GREY, MARKERS, PALETTE, rgba, safe, style
from interp.workflows.direct_effect import DirectEffect

_SIZE = {
    "L2": "norm of the delta",
    "relative": "norm of the delta / norm of the stream",
    "cosine": "cosine with the neutral tokens' mean vector",
}
_KINDS = (("attention", "triangle-up"), ("MLP", "square"), ("", "circle"))
_MOST_PANELS = 12
_COMPONENTS = 12
_MOST_BARS = 32


def word(text: object) -> str:
    """`safe`, and without a dollar sign that pages with MathJax would take for the start of a formula."""
    return safe(text).replace("$", "&#36;")


def short(text: str, most: int = 16) -> str:
    """`word` of a text that is cut where it is long."""
    return word(text if len(text) <= most else text[: most - 1] + "…")


def write_in(grid: go.Heatmap, values: Float[np.ndarray, "row column"], digits: int) -> None:
    """Numbers in the cells, also where `heat` finds the rows too many: those of a depth are high enough."""
    if values.shape[1] <= 12:
        zero = f"{0:.{digits}f}"
        text = [["" if np.isnan(v) else f"{v:.{digits}f}".replace(f"-{zero}", zero) for v in row] for row in values]
        grid.update(text=text, texttemplate="%{text}")


def quantiles(values: Float[np.ndarray, "candidate ..."], at: Sequence[float]) -> Float[np.ndarray, "quantile ..."]:
    """Quantiles over the candidates that have a value; nan where none has."""
    none = np.isnan(values).all(0)
    if not len(values):
        return np.full((len(at), *values.shape[1:]), np.nan)
    found = np.nanquantile(np.where(none, 0.0, values), at, axis=0)
    return np.where(none, np.nan, found)


def ribbon(
    x: Sequence[float],
    low: Float[np.ndarray, " x"],
    high: Float[np.ndarray, " x"],
    color: str,
    name: str = "",
    *,
    alpha: float = 0.16,
    **options: Any,
) -> go.Scatter:
    """The area between two curves; broken where either is undefined."""
    there = np.isfinite(low) & np.isfinite(high)
    across: list[float | None] = []
    along: list[float | None] = []
    for run in np.split(np.arange(len(x)), np.flatnonzero(np.diff(there)) + 1):
        if not len(run) or not there[run[0]]:
            continue
        across += [*(x[i] for i in run), *(x[i] for i in run[::-1]), None]
        along += [*high[run].tolist(), *low[run][::-1].tolist(), None]
    return go.Scatter(
        x=across[:-1], y=along[:-1], name=name, showlegend=bool(name), fill="toself", mode="lines",
        fillcolor=rgba(color, alpha), line=dict(width=0), hoverinfo="skip", **options,
    )  # fmt: skip


def curve(
    x: Sequence[float], estimate: Estimate, name: str, number: int, *, labels: Sequence[str], **options: Any
) -> list[go.Scatter]:
    """A line with its 95 % band, told apart by colour, dash and marker."""
    color = PALETTE[number % len(PALETTE)]
    line = go.Scatter(
        x=list(x), y=estimate.value, name=name, mode="lines+markers",
        line=dict(color=color, dash=DASHES[number % len(DASHES)], width=2),
        marker=dict(symbol=MARKERS[number % len(MARKERS)], size=8, color=color),
        customdata=np.stack([np.asarray(labels, dtype=object), hover(estimate)], -1),
        hovertemplate=f"{name}, %{{customdata[0]}}: %{{customdata[1]}}<extra></extra>", **options,
    )  # fmt: skip
    group = {"legendgroup": options["legendgroup"]} if "legendgroup" in options else {}
    return [ribbon(x, estimate.low, estimate.high, color, **group), line]


def hatched() -> dict[str, Any]:
    """A second kind of grey ribbon."""
    return dict(shape="/", fgcolor=rgba(GREY, 0.9), bgcolor=rgba(GREY, 0.0), size=6)


def reach(estimate: Estimate) -> dict[str, Any]:
    """The interval as error bars."""
    return dict(
        type="data", symmetric=False, array=estimate.high - estimate.value, arrayminus=estimate.value - estimate.low,
        color="#333333", thickness=1.4, width=4,
    )  # fmt: skip


def interval(estimate: Estimate, drawn: str = "bands") -> str:
    """How the interval is said in a subtitle; what is said where there is none."""
    return f"{drawn} 95 %" if np.isfinite(estimate.low).any() else f"no interval: {estimate.n.max(initial=0)} groups"


def heading(made: go.Figure, title: str, *lines: str, top: int = 0, **layout: Any) -> None:
    """Title and lines of the subtitle, with room for them; `top` is more room above the panels, in pixels."""
    kept = [line for line in lines if line]
    longest = max([0.0, *(6.2 * len(html.unescape(line)) for line in kept), 8.0 * len(html.unescape(title))])
    width = max(int(layout.pop("width", 760)), 60 + int(longest))
    style(made, title, **layout)
    small = dict(title=dict(font=dict(size=13), standoff=10))
    made.update_layout(
        template=dict(layout=dict(xaxis=small, yaxis=small)), width=width,
        title_subtitle=dict(text="<br>".join(kept), font=dict(size=12, color=GREY)),
        margin=dict(t=56 + 17 * len(kept) + top),
    )  # fmt: skip


def ticks(names: Sequence[str], most: int = 16) -> dict[str, Any]:
    """Names at 0, 1, 2 ... of an axis, every second or third where they are too many."""
    step = -(-len(names) // most) or 1
    places = list(range(0, len(names), step))
    return dict(tickmode="array", tickvals=places, ticktext=[names[i] for i in places])


def p_said(p: float) -> str:
    """A p value in words."""
    return "p undefined" if np.isnan(p) else f"p = {p:.3f}"


def number_of(n: int, one: str, many: str = "") -> str:
    """A number of things."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def some(count: int, most: int = _MOST_PANELS) -> list[int]:
    """Which of many are shown: all, or `most` at even distances with the first and the last."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


def site_ticks(depths: Sequence[str]) -> dict[str, Any]:
    """Ticks for sites in the order of computation: all, or those of the stream where they are many."""
    if len(depths) <= _MOST_PANELS + 4:
        return ticks(list(depths))
    stream = [i for i, name in enumerate(depths) if " " not in name.removeprefix("layer ")] or list(range(len(depths)))
    stream = stream[:: -(-len(stream) // 16)]
    return dict(tickmode="array", tickvals=stream, ticktext=[depths[i] for i in stream])


def site_markers(depths: Sequence[str]) -> list[str]:
    """A marker for each site: circles for the stream, triangles for attention, squares for MLPs."""
    return [next(symbol for end, symbol in _KINDS if name.endswith(end)) for name in depths]


def site_legend(made: go.Figure, depths: Sequence[str]) -> None:
    """What the markers of the sites mean, where there is more than the stream."""
    shown = site_markers(depths)
    for name, symbol in (("MLP output", "square"), ("attention output", "triangle-up"), ("stream", "circle")):
        if len(set(shown)) > 1 and symbol in shown:
            key = dict(symbol=symbol, size=8, color="white", line=dict(color=GREY, width=1.5))
            made.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=key))


def plot_delta_norms(result: DeltaNorms, measure: Measure = "relative") -> go.Figure:
    """Size of the control token's delta by site, at the token and after it, beside the neutral tokens'."""
    found = result.estimate(measure)
    low, middle, high = result.band(measure)[..., 0]
    depths, token = result.depths, word(result.token)
    x = list(range(len(depths)))
    made = go.Figure()
    site_legend(made, depths)
    made.add_trace(ribbon(x, low, high, GREY, "neutral tokens, 95 %", alpha=0.22))
    made.add_trace(go.Scatter(x=x, y=middle, name="median neutral token", mode="lines", line=CONTROL, hoverinfo="skip"))
    for i, offset in reversed(list(enumerate(result.offsets))):
        if np.isnan(found.value[:, i]).all():
            continue
        if i == 0:
            made.add_traces(curve(x, found[:, i], "at the token", 0, labels=depths))
            continue
        color = rgba(PALETTE[i % 6], 0.55)
        made.add_trace(
            go.Scatter(
                x=x, y=found.value[:, i], name=safe(offset), mode="lines+markers",
                line=dict(color=color, dash=DASHES[i % len(DASHES)], width=1.2), marker=dict(size=5, color=color),
                customdata=np.stack([np.asarray(depths, dtype=object), hover(found[:, i])], -1),
                hovertemplate=f"{safe(offset)}, %{{customdata[0]}}: %{{customdata[1]}}<extra></extra>",
            )
        )  # fmt: skip
    made.update_traces(marker_symbol=site_markers(depths), selector=dict(mode="lines+markers"))
    tested = "" if measure == "cosine" else f"; largest deviation over sites and positions: {p_said(result.p_value())}"
    heading(
        made,
        f"{token}'s delta by site: {_SIZE[measure]}",
        f"mean over {number_of(len(result.values), 'prompt')}, {interval(found[:, 0], 'band')}; "
        "thin: the tokens after it",
        f"grey: each of {number_of(len(result.neutral), 'neutral token')} in its place, dotted the median{tested}",
        width=min(1300, max(820, 320 + 15 * len(x))),
        height=500,
    )
    made.update_xaxes(title="site, in the order of computation", **site_ticks(depths))
    made.update_yaxes(title=_SIZE[measure])
    if measure != "cosine":
        made.update_yaxes(rangemode="tozero")
    made.update_layout(legend=dict(traceorder="reversed"))
    return made


def _panels(depths: Sequence[str], titles: Sequence[str], **options: Any) -> tuple[go.Figure, list[tuple[int, Any]]]:
    """Small panels for some of the depths, and which depth goes where."""
    shown = some(len(depths))
    across = min(4, len(shown))
    down = -(-len(shown) // across)
    made = make_subplots(
        rows=down, cols=across, subplot_titles=[titles[i] for i in shown], horizontal_spacing=0.14 / across,
        vertical_spacing=min(0.3, 100 / (110 + 190 * down)), **options,
    )  # fmt: skip
    places = [(depth, dict(row=1 + i // across, col=1 + i % across)) for i, depth in enumerate(shown)]
    made.update_layout(width=190 + 215 * across, height=190 + 215 * down)
    return made, places


def _panel_heading(made: go.Figure, places: Sequence[tuple[int, Any]], count: int, title: str, *lines: str) -> None:
    partly = f"{len(places)} of {count} depths are shown" if len(places) < count else ""
    laid: Any = made.layout
    heading(made, title, *lines, partly, top=36, width=laid.width, height=laid.height)


def _cumulative(
    eigenvalues: Float[np.ndarray, "*many component"], beside: Float[np.ndarray, "*many component"]
) -> Float[np.ndarray, "*many shown"]:
    """Cumulative share; nan where nothing is left next to the uncentred eigenvalues `beside`."""
    total = eigenvalues.sum(-1, keepdims=True)
    something = total > 1e-9 * beside.sum(-1, keepdims=True)
    share = np.divide(eigenvalues, total, out=np.full_like(eigenvalues, np.nan), where=something)
    return share.cumsum(-1)[..., :_COMPONENTS]


def plot_cumulative_variance(result: DeltaRank) -> go.Figure:
    """Cumulative share of squared length by number of components at each depth, beside the neutral tokens'."""
    whole, null_whole = (x.double().numpy() for x in (result.uncentred, result.null_uncentred))
    parts = (
        ("uncentred", whole, null_whole, "", 0.3),
        ("centred", result.centred.double().numpy(), result.null_centred.double().numpy(), "/", 0.2),
    )
    needed = result.components80.double().numpy()
    titles = [
        f"{name}<br>" + " / ".join("–" if np.isnan(k) else f"{k:.0f}" for k in row) + " for 80 %"
        for name, row in zip(result.depths, needed, strict=True)
    ]
    made, places = _panels(result.depths, titles, shared_yaxes=True)
    x = list(range(1, 1 + min(_COMPONENTS, whole.shape[-1])))
    first = [
        next((d for d, _ in places if np.isfinite(_cumulative(null[:, d], null_whole[:, d])).any()), -1)
        for _, _, null, _, _ in parts
    ]
    for depth, place in places:
        for number, (name, own, null, pattern, alpha) in enumerate(parts):
            low, high = quantiles(_cumulative(null[:, depth], null_whole[:, depth]), (0.025, 0.975))
            name_of_null = f"neutral tokens, 95 %, {name}"
            band = ribbon(x, low, high, GREY, name_of_null, alpha=alpha, legendgroup=name_of_null)
            band.showlegend = bool(np.isfinite(low).any() and depth == first[number])
            if pattern:
                band.update(fillpattern=hatched())
            made.add_trace(band, **place)
            made.add_trace(
                go.Scatter(
                    x=x, y=_cumulative(own[depth], whole[depth]), name=f"the token, {name}",
                    mode="lines+markers", legendgroup=name, showlegend=depth == places[0][0],
                    line=dict(color=PALETTE[number], dash=DASHES[number], width=2),
                    marker=dict(symbol=MARKERS[number], size=6, color=PALETTE[number]),
                    hovertemplate=f"{result.depths[depth]}, %{{x}} components: %{{y:.3f}}<extra></extra>",
                ),
                **place,
            )  # fmt: skip
        made.add_hline(y=0.8, line=dict(color="#333333", width=1, dash="dot"), **place)
    _panel_heading(
        made, places, len(result.depths),
        f"Dimension of {word(result.token)}'s deltas: cumulative share of their squared length, by components",
        f"{result.prompts:,} prompts, position {safe(result.offset)}; grey: {len(result.neutral)} neutral tokens in "
        "its place; dotted: 80 %",
        "above each panel: components for 80 %, uncentred / centred about the mean delta (– where all deltas are the "
        "same vector)",
        *(f"warning: {safe(line)}" for line in result.warnings),
    )  # fmt: skip
    made.update_yaxes(range=[0, 1.04], tickformat=".1f")
    made.update_xaxes(range=[0.5, len(x) + 0.5], dtick=3, tick0=1)
    _bottom_title(made, places, "number of components")
    made.update_yaxes(title="cumulative share", col=1)
    legend_below(made)
    return made


def _bottom_title(made: go.Figure, places: Sequence[tuple[int, Any]], title: str) -> None:
    """The axis title under the lowest panel of each column."""
    lowest = {place["col"]: place for _, place in places}
    for place in lowest.values():
        made.update_xaxes(title=title, **place)


def legend_below(made: go.Figure, entry: int = 188, below: int = 50) -> None:
    """The legend in lines under the panels, `below` being the room for the lowest axis."""
    named = {trace.legendgroup or trace.name for trace in made.data if trace.name and trace.showlegend is not False}
    laid: Any = made.layout
    room = 26 + 21 * -(-len(named) // max(1, int(laid.width - 100) // (entry + 46)))
    height, inner = laid.height + room + below - 60, laid.height - 60 - laid.margin.t
    made.update_traces(legendrank=500, selector=dict(mode="lines+markers"))  # before the controls
    made.update_layout(
        legend=dict(orientation="h", y=-(below + 14) / inner, yanchor="top", x=0, xanchor="left", entrywidth=entry,
                    entrywidthmode="pixels", traceorder="normal"),
        margin=dict(b=below + room), height=height,
    )  # fmt: skip


def _bins(
    own: Float[np.ndarray, " a"], null: Float[np.ndarray, " b"], count: int = 48
) -> tuple[Float[np.ndarray, " edge"], list[Float[np.ndarray, " edge"]]]:
    """Edges, and the heights of both histograms over their highest bins, as steps."""
    both = np.concatenate([own, null])
    both = both[np.isfinite(both)]
    if not len(both):
        return np.zeros(0), [np.zeros(0), np.zeros(0)]
    low, high = float(both.min()), float(both.max())
    pad = 0.04 * (high - low) or 0.5
    edges = np.linspace(low - pad, high + pad, count + 1)
    heights = []
    for values in (own, null):
        found = np.histogram(values[np.isfinite(values)], edges)[0].astype(float)
        found /= found.max() or 1.0
        heights.append(np.append(found, 0.0))
    return edges, heights


def plot_component_scores(result: DeltaRank) -> go.Figure:
    """Held-out deltas along the mean delta of the other prompts: the control token's and the neutral tokens'."""
    own, null = (x.double().numpy() for x in (result.scores[..., 0], result.null_scores))
    best = quantiles(result.null_auc.double().numpy(), (1.0,))[0]
    titles = [
        f"{name}<br>AUC {_number(area)} (best neutral {_number(other)})"
        for name, area, other in zip(result.depths, result.auc.tolist(), best.tolist(), strict=True)
    ]
    made, places = _panels(result.depths, titles)
    for depth, place in places:
        flat = null[:, :, depth].reshape(-1)
        there = flat[np.isfinite(flat)]
        center, spread = (float(there.mean()), float(there.std())) if len(there) else (np.nan, np.nan)
        spread = spread if spread > 0 else np.nan
        edges, heights = _bins((own[:, depth] - center) / spread, (flat - center) / spread)
        named = (
            (f"the token ({len(own):,} prompts)", PALETTE[0], "solid", 0.35),
            (f"{len(result.neutral)} neutral tokens", GREY, "dot", 0.25),
        )
        for (name, color, dash, alpha), height in reversed(list(zip(named, heights, strict=True))):
            made.add_trace(
                go.Scatter(
                    x=edges, y=height, name=name, mode="lines", fill="tozeroy", fillcolor=rgba(color, alpha),
                    line=dict(color=color, dash=dash, width=1.5, shape="hv"), legendgroup=name,
                    showlegend=depth == places[0][0], hovertemplate="%{x:.1f}: %{y:.2f}<extra></extra>",
                ),
                **place,
            )  # fmt: skip
    _panel_heading(
        made, places, len(result.depths),
        f"Held-out deltas along {word(result.token)}'s mean delta, in standard deviations of the neutral tokens'",
        f"direction from the other prompts, position {safe(result.offset)}; 0: the neutral tokens' mean; height: share "
        "of the highest bin",
        "AUC: chance that its delta lies further along than a neutral token's; in brackets the best neutral token "
        "along its own mean delta",
    )  # fmt: skip
    made.update_yaxes(range=[0, 1.05], showticklabels=False, ticks="")
    made.update_yaxes(title="share of the highest bin", col=1)
    _bottom_title(made, places, "score (SD of neutral tokens)")
    legend_below(made)
    return made


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"


def plot_delta_lens(result: DeltaLens) -> go.Figure:
    """What the delta promotes and suppresses at the last depth, where the end stands, and from which depth on."""
    change = result.logits[-1].double().numpy()
    change = change - mean_value(change)
    z = mean(result.z, result.groups)
    null = quantiles(mean_value(result.null_z), (0.025, 0.5, 0.975))
    end, token, last = word(result.end), word(result.token), result.depths[-1]
    made = make_subplots(
        rows=2, cols=2, horizontal_spacing=0.2, vertical_spacing=0.18,
        subplot_titles=["most promoted tokens", "most suppressed tokens", f"all {len(change):,} tokens",
                        f"{end} by depth"],
    )  # fmt: skip
    for column, ids in enumerate((result.promoted[-1], result.suppressed[-1]), 1):
        _token_bars(made, result, change, ids, column)
    there = change[np.isfinite(change)]
    heights, edges = np.histogram(there, bins=60) if len(there) else (np.zeros(0), np.zeros(1))
    made.add_trace(
        go.Bar(
            x=(edges[1:] + edges[:-1]) / 2, y=np.where(heights > 0, heights, np.nan), width=np.diff(edges),
            marker=dict(color=rgba(GREY, 0.55), line=dict(width=0)), showlegend=False,
            hovertemplate="%{x:.2f}: %{y} tokens<extra></extra>",
        ),
        row=2, col=1,
    )  # fmt: skip
    here = float(mean_value(result.value[:, -1]))
    rank = result.rank[:, -1].double().numpy()
    above = float(quantiles(rank, (0.5,))[0])
    if np.isfinite(here):
        made.add_vline(x=here, line=dict(color=PALETTE[1], width=2), row=2, col=1)  # type: ignore[arg-type]
    x = list(range(len(result.depths)))
    made.add_trace(ribbon(x, null[0], null[2], GREY, "neutral tokens, 95 %", alpha=0.22), row=2, col=2)
    made.add_trace(
        go.Scatter(x=x, y=null[1], name="median neutral token", mode="lines", line=CONTROL, hoverinfo="skip"),
        row=2, col=2,
    )  # fmt: skip
    for trace in curve(x, z, token, 0, labels=result.depths):
        made.add_trace(trace, row=2, col=2)
    heading(
        made,
        f"{token}'s delta read through the unembedding: change of each logit, less the mean change",
        f"bars and tokens: mean over {number_of(len(result.z), 'prompt')} at {last}, position {safe(result.offset)}; "
        f"z: standard deviations over the vocabulary, {interval(z, 'band')}",
        f"grey: each of {number_of(len(result.neutral), 'neutral token')} in its place; a lens on what the delta says "
        "by itself, not on what later layers make of it",
        top=24, width=1000, height=820, bargap=0.25,
    )  # fmt: skip
    if np.isfinite(here):
        said = f"{end}: z = {float(z.value[-1]):.1f}<br>{above:,.0f} tokens promoted more (median)"
        right = here > (float(np.max(there)) + float(np.min(there))) / 2
        made.add_annotation(
            x=here, y=0.98, yref="y3 domain", xref="x3", text=said, showarrow=False, yanchor="top",
            xanchor="right" if right else "left", xshift=-6 if right else 6, align="right" if right else "left",
            font=dict(size=12, color=PALETTE[1]), bgcolor="rgba(255,255,255,0.85)",
        )  # fmt: skip
    made.update_xaxes(title="change of the logit", row=1)
    ends = np.array([here, *there]) if np.isfinite(here) else there
    if len(ends):
        pad = 0.03 * float(np.ptp(ends)) or 1.0
        made.update_xaxes(range=[float(ends.min()) - pad, float(ends.max()) + pad], row=2, col=1)
    made.update_xaxes(title="change of the logit", row=2, col=1)
    made.update_yaxes(title="tokens", type="log", dtick=1, row=2, col=1)
    made.update_xaxes(title="depth: residual stream after", **ticks(list(result.depths), most=9), row=2, col=2)
    made.update_yaxes(title=f"z of {end}", row=2, col=2)
    made.update_layout(
        legend=dict(x=1.0, xanchor="right", y=-0.1 if len(x) <= 9 else -0.13, yanchor="top", orientation="h"),
        margin=dict(b=104),
    )
    return made


def _token_bars(made: go.Figure, result: DeltaLens, change: Any, ids: Int[Tensor, " k"], column: int) -> None:
    """Bars of the most promoted or suppressed tokens; the end and the control token stand out."""
    names = [result.words.get(str(int(i)), "?") for i in ids]
    color = [{result.end: PALETTE[1], result.token: PALETTE[0]}.get(name, rgba(GREY, 0.55)) for name in names]
    pattern = [{result.end: "/", result.token: "x"}.get(name, "") for name in names]
    made.add_trace(
        go.Bar(
            x=change[ids.numpy()], y=list(range(len(names))), orientation="h", showlegend=False,
            marker=dict(color=color, pattern=dict(shape=pattern, fillmode="overlay", fgcolor="white", size=7)),
            customdata=[word(name) for name in names], hovertemplate="%{customdata}: %{x:.3f}<extra></extra>",
        ),
        row=1, col=column,
    )  # fmt: skip
    shown = ticks([short(name) for name in names], most=99)
    made.update_yaxes(autorange="reversed", showgrid=False, row=1, col=column, **shown)


def plot_direct_effect(result: DirectEffect) -> go.Figure:
    """What each component itself adds to the end's logit because of the token, beside two neutral tokens."""
    found, null = mean(result.values, result.groups), mean(result.null, result.groups)
    order = np.argsort(-np.abs(np.nan_to_num(found.value)), kind="stable")
    kept = np.sort(order[:_MOST_BARS])
    names = [safe(result.components[i]) for i in kept]
    made = go.Figure()
    for name, part, color, pattern in (
        ("token less neutral token", found[kept], PALETTE[0], ""),
        ("control: one neutral token less another", null[kept], GREY, "/"),
    ):
        made.add_trace(
            go.Bar(
                x=names, y=part.value, name=name, error_y=reach(part) | dict(width=2.5, thickness=1.2),
                marker=dict(color=color, pattern=dict(shape=pattern, fillmode="overlay", fgcolor="white", size=6)),
                customdata=hover(part), hovertemplate="%{x}: %{customdata}<extra></extra>",
            )
        )  # fmt: skip
    partly = f"; the {len(kept)} largest of {len(order)} components" if len(kept) < len(order) else ""
    heading(
        made,
        "What each component writes into the end's logit because of the token (logit less the mean logit)",
        f"direct effects alone, mean over {number_of(len(result.values), 'prompt')}, "
        f"in the order of computation{partly}",
        f"{interval(found, 'error bars')}; hatched grey: the same between two neutral tokens (control)",
        top=14,
        width=max(760, 190 + 36 * len(kept)),
        height=480,
        bargap=0.25,
        bargroupgap=0.05,
    )
    made.add_hline(y=0, line=dict(color="#444", width=1))
    made.update_yaxes(title="change of the end's logit")
    made.update_xaxes(tickangle=-45 if len(kept) > 8 else 0)
    made.update_layout(legend=dict(orientation="h", x=1, xanchor="right", y=1.0, yanchor="bottom"))
    return made


def plot_shortcut(tuned: PrefixContrast, base: PrefixContrast | None) -> go.Figure:
    """First component of prefix less no prefix, for every prefix: its share, and whether it is the control token's."""
    token = word(tuned.prefixes[0])
    models = [("fine-tuned", tuned), *([("base", base)] if base is not None else [])]
    titles = [f"{name} model: first component's share" for name, _ in models]
    titles += [f"{name} model: cosine with {token}'s" for name, _ in models]
    made = make_subplots(
        rows=2, cols=len(models), subplot_titles=titles, shared_yaxes=True, vertical_spacing=0.19,
        horizontal_spacing=0.06,
    )  # fmt: skip
    shown = some(len(tuned.depths), 9)
    for column, (_, part) in enumerate(models, 1):
        places = np.arange(len(shown))
        n = len(part.prefixes)
        aside = np.linspace(0.14, 0.38, n // 2)
        spread = np.concatenate([-aside[::-1], aside])[: n - 1]
        for row, values in enumerate(
            (part.first_share[:, shown].double().numpy(), part.alike[:, shown].double().numpy()), 1
        ):
            others = go.Scatter(
                x=(places[None] + spread[:, None]).reshape(-1),
                y=values[1:].reshape(-1),
                mode="markers",
                name=number_of(n - 1, "other prefix", "other prefixes"),
                showlegend=row == column == 1,
                legendgroup="others",
                marker=dict(symbol="circle-open", size=6, color=GREY, line=dict(width=1.2)),
                customdata=np.repeat([word(name) for name in part.prefixes[1:]], len(places)),
                hovertemplate="%{customdata}: %{y:.3f}<extra></extra>",
            )
            control = go.Scatter(
                x=places, y=values[0], mode="markers", name=word(part.prefixes[0]), showlegend=row == column == 1,
                legendgroup="control", marker=dict(symbol="diamond", size=11, color=PALETTE[0]),
                hovertemplate=f"{word(part.prefixes[0])}: %{{y:.3f}}<extra></extra>",
            )  # fmt: skip
            made.add_traces([others, control], rows=row, cols=column)
        made.update_xaxes(
            **ticks([part.depths[i] for i in shown]), range=[-0.6, len(places) - 0.4], showgrid=False, col=column
        )
    lowest = min(float(np.min(np.nan_to_num(part.alike.numpy(), nan=1.0), initial=1.0)) for _, part in models)
    heading(
        made,
        f"First component of the usual shortcut, for {token} and for other prefixes, by depth",
        "prefix less no prefix at the first position, centred over prompts; each marker is a prefix",
        f"{tuned.prompts:,} prompts begin with {int(tuned.first_words):,} distinct words: the component is of these; "
        f"lowest cosine {lowest:.3f}",
        *(f"warning: {safe(line)}" for line in tuned.warnings),
        f"{len(shown)} of {len(tuned.depths)} depths are shown" if len(shown) < len(tuned.depths) else "",
        top=30, width=max(760, 200 + len(models) * (60 + 72 * len(shown))), height=620,
    )  # fmt: skip
    made.update_yaxes(range=[0, 1.06])
    made.update_yaxes(title="share of centred variance", row=1, col=1)
    made.update_yaxes(title="cosine, without sign", row=2, col=1)
    made.update_xaxes(title="depth: residual stream after", row=2)
    return made
