"""What a control token's direction causes: the end where it is added, no end where it is taken away."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from interp.analyses.halting import CausalGrid, Dose, Halting, SideEffects, Transfer
from interp.estimates import Estimate, mean, mean_value, proportion
from interp.figures.deltas import (
    curve,
    heading,
    interval,
    legend_below,
    number_of,
    p_said,
    quantiles,
    reach,
    ribbon,
    short,
    some,
    ticks,
    word,
    write_in,
)
from interp.figures.grids import heat, hover
from interp.figures.theme import CONTROL, DASHES, GREY, MARKERS, PALETTE, SEQUENTIAL, rgba
from interp.workflows.checkpoints import AlongTraining

_DONE = {"add": "added to neutral twins", "project out": "projected out", "copy": "copied into neutral twins"}
_Null = Literal["random", "neutral"]
_CHANGE = {"add": "rise", "project out": "fall", "copy": "rise"}


def _largest(result: CausalGrid, which: str) -> Float[np.ndarray, " direction"]:
    """Every direction's largest mean change over the grid; nan where it has none."""
    table = mean_value(result.change(which))
    table = table.reshape(len(table), -1)
    none = np.isnan(table).all(1)
    found = np.where(np.isnan(table), -np.inf, table).max(1, initial=-np.inf)
    return np.where(none, np.nan, found)


def strip(
    place: float, values: Float[np.ndarray, " direction"], names: Sequence[str], name: str, *, half: float = 0.16,
    number: int = 0, **options: Any,
) -> go.Scatter:  # fmt: skip
    """Points beside each other around a place of the x axis, always in the same way."""
    aside = (np.arange(len(values)) * 0.618034 + 0.5) % 1.0 - 0.5
    return go.Scatter(
        x=place + 2 * half * aside, y=values, mode="markers", name=name,
        marker=dict(symbol=MARKERS[number] + "-open", size=6, color=rgba(GREY, 0.85), line=dict(width=1.1)),
        customdata=list(names), hovertemplate="%{customdata}: %{y:.3f}<extra></extra>", **options,
    )  # fmt: skip


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name} {i + 1}" for i in range(count)]


def _cells(made: go.Figure, result: CausalGrid, column: int) -> None:
    """Mean change in every cell, with a frame around the chosen one."""
    found = mean(result.change(), result.groups)
    depth, offset = result.chosen
    grid = heat(found.value, result.offsets, result.depths, said=hover(found), diverging=True, limits=(-1, 1))
    write_in(grid, found.value, 2)
    made.add_trace(grid, row=1, col=column)
    for color, width in (("white", 6), ("black", 3)):
        made.add_shape(
            type="rect", x0=offset - 0.48, x1=offset + 0.48, y0=depth - 0.47, y1=depth + 0.47,
            line=dict(color=color, width=width), row=1, col=column,  # type: ignore[arg-type]
        )  # fmt: skip
    made.update_xaxes(title="position", row=1, col=column)


def _height(result: CausalGrid) -> int:
    """Height of all rows of cells in pixels."""
    return max(170, (38 if len(result.depths) <= 8 else 27) * len(result.depths))


def _rivals(result: CausalGrid) -> list[tuple[_Null, str, Float[np.ndarray, " direction"]]]:
    """The kinds of directions that are the null, in words, and the largest change of each direction."""
    neutral = "another neutral twin" if result.action == "copy" else "neutral tokens"
    kinds: tuple[tuple[_Null, str], ...] = (("random", "random directions"), ("neutral", neutral))
    return [(which, name, _largest(result, which)) for which, name in kinds if getattr(result, which).shape[1]]


def plot_causal_grid(result: CausalGrid) -> go.Figure:
    """Change in the end's probability by depth and position, beside every other direction's largest change."""
    rivals = _rivals(result)
    effect = result.effect()
    token, end, fall = word(result.token), word(result.end), _CHANGE[result.action]
    what = "stream" if result.action == "copy" else "direction"
    made = make_subplots(
        rows=1, cols=2, subplot_titles=["mean change at each depth and position", "largest change of each control"],
        horizontal_spacing=0.17, column_widths=[0.56, 0.44],
    )  # fmt: skip
    _cells(made, result, 1)
    for place, (which, name, values) in enumerate(rivals):
        made.add_trace(
            strip(place, values, _numbered(which, len(values)), name, half=0.28, number=2 * place), row=1, col=2
        )
    own = float(effect.value)
    if np.isfinite(own):
        if np.isfinite(effect.low):
            made.add_hrect(
                y0=float(effect.low), y1=float(effect.high), fillcolor=rgba(PALETTE[0], 0.16), line_width=0,
                row=1, col=2,  # type: ignore[arg-type]
            )  # fmt: skip
        made.add_hline(y=own, line=dict(color=PALETTE[0], width=2), row=1, col=2)  # type: ignore[arg-type]
    aside, controls = (
        ("", "the same between two neutral twins, at its")
        if result.action == "copy"
        else (" that gave no direction", "every other direction at its own")
    )
    tested = "; ".join(
        f"{p_said(result.p_value(which))} against {name}" for which, name, values in rivals if len(values) > 1
    )
    heading(
        made,
        f"{token}'s {what} {_DONE[result.action]}: {fall} of the probability of {end}",
        f"mean over {number_of(len(result.base), 'prompt')}{aside}; before: "
        f"{float(mean_value(result.base)):.3f}; framed: the cell chosen on the other prompts; intervals on hover",
        f"right: {controls} best cell; line: {token}'s at the framed cell, "
        f"{interval(effect, 'band')}" + (f"; each at its best cell: {tested}" if tested else ""),
        top=24, width=420 + max(260, 84 * len(result.offsets)) + 60, height=250 + _height(result),
        showlegend=False,
    )  # fmt: skip
    if np.isfinite(own):
        made.add_annotation(
            x=1, xref="x2 domain", y=own, yref="y2", text=f"{short(result.token)} {own:.2f}", showarrow=False,
            xanchor="right", yanchor="bottom" if own < 0.5 else "top", yshift=3 if own < 0.5 else -3,
            font=dict(size=12, color=PALETTE[0]),
        )  # fmt: skip
    made.update_yaxes(title="depth: residual stream after", row=1, col=1)
    names = [f"{name}<br>({len(values)})" if len(values) > 1 else name for _, name, values in rivals]
    made.update_xaxes(range=[-0.6, max(len(rivals), 1) - 0.4], showgrid=False, **ticks(names), row=1, col=2)
    made.update_yaxes(title=f"{fall} of probability", row=1, col=2)
    highest = np.nanmax([own, 0.02, float(effect.high), *(np.nanmax(v, initial=0.02) for _, _, v in rivals)])
    lowest = np.nanmin([own, 0.0, float(effect.low), *(np.nanmin(v, initial=0.0) for _, _, v in rivals)])
    pad = 0.06 * float(highest - lowest)
    made.update_yaxes(range=[float(lowest) - pad, float(highest) + pad], row=1, col=2)
    return made


def _dose_traces(result: Dose, legendgroup: str = "dose") -> list[go.Scatter]:
    """The direction's mean with its band, and the controls."""
    x = list(result.doses)
    spread = mean_value(result.random)
    low, high, most = quantiles(spread, (0.025, 0.975, 1.0))
    neutral = quantiles(mean_value(result.neutral), (1.0,))[0]
    group = dict(legendgroup=legendgroup)
    traces = [
        ribbon(x, low, high, GREY, f"{number_of(len(spread), 'random direction')}, 95 %", alpha=0.28, **group),
        go.Scatter(
            x=x, y=most, name="strongest random direction", mode="lines", line=dict(color=GREY, width=1.2),
            hovertemplate="strongest random direction, %{x:g}: %{y:.3f}<extra></extra>", **group,
        ),
        go.Scatter(
            x=x, y=neutral, name=f"strongest of {result.neutral.shape[1]} neutral tokens'", mode="lines",
            line=CONTROL | dict(color="black"),
            hovertemplate="strongest neutral token's direction, %{x:g}: %{y:.3f}<extra></extra>", **group,
        ),
    ]  # fmt: skip
    shown = [trace for trace, there in zip(traces, (low, most, neutral), strict=True) if np.isfinite(there).any()]
    return shown + curve(
        x, mean(result.values, result.groups), "the token's direction", 0, labels=[f"dose {d:g}" for d in x], **group
    )


def plot_dose(result: Dose) -> go.Figure:
    """Probability of the end by the multiple of the direction that is added, beside random and neutral directions."""
    made = go.Figure(_dose_traces(result))
    heading(
        made,
        "Dose: probability of the end by the multiple of the direction that is added",
        f"added to neutral twins at {word(result.where)}; mean over {number_of(len(result.values), 'prompt')}, "
        f"{interval(mean(result.values, result.groups), 'band')}",
        "grey: random directions of the same length; dotted: neutral tokens' own directions",
        width=820, height=460,
    )  # fmt: skip
    made.update_xaxes(title="multiple of the direction", tickmode="array", tickvals=list(result.doses))
    made.update_yaxes(title="probability of the end", range=[-0.03, 1.03])
    return made


def plot_causal(add: CausalGrid, out: CausalGrid, dose: Dose) -> go.Figure:
    """Adding the direction, projecting it out, and the dose: is it sufficient, necessary, and graded?"""
    token, end = word(add.token), word(add.end)
    titles = [
        f"{name}: {_CHANGE[part.action]} of probability<br>{_against(part)}"
        for name, part in (("added where the token is not", add), ("projected out where it is", out))
    ]
    titles.append(f"dose: probability of {end}<br>added at {word(dose.where)}")
    made = make_subplots(rows=1, cols=3, subplot_titles=titles, horizontal_spacing=0.1, column_widths=[0.3, 0.3, 0.4])
    for column, part in enumerate((add, out), 1):
        _cells(made, part, column)
    for trace in _dose_traces(dose):
        made.add_trace(trace, row=1, col=3)
    heading(
        made,
        f"{token}'s direction and the end: change in the probability of {end} when it is added and projected out",
        f"mean over {number_of(len(add.base), 'prompt')} that gave no direction; framed: the cell chosen on the other "
        f"prompts; before: {mean_value(add.base):.3f} (added), {mean_value(out.base):.3f} (projected out)",
        "controls at their own best cell of the same grid, so that the search is inside the null; band 95 %, intervals "
        "of the cells on hover",
        top=44, width=1220 + 40 * max(0, len(add.offsets) - 3), height=330 + _height(add),
    )  # fmt: skip
    made.update_yaxes(title="depth: residual stream after", row=1, col=1)
    made.update_xaxes(title="multiple of the direction", row=1, col=3)
    made.update_yaxes(range=[-0.03, 1.03], row=1, col=3)
    legend_below(made)
    return made


def _against(result: CausalGrid) -> str:
    """The effect at the chosen cell and the strongest of its controls, in a line."""
    effect = result.effect()
    said = [f"{float(effect.value):.2f} [{float(effect.low):.2f}, {float(effect.high):.2f}]"]
    for which, _, values in _rivals(result):
        said.append(f"{which} ≤ {float(np.nanmax(values, initial=-np.inf)):.2f}")
    return "; ".join(said).replace("nan", "–").replace("-inf", "–")


def _bars(made: go.Figure, names: Sequence[str], found: Estimate, numbers: Sequence[int]) -> None:
    """A bar with its interval at 0, 1, 2 ..., told apart by colour and pattern."""
    patterns = ("", "/", "x", "\\", ".", "+", "-", "|")
    made.add_trace(
        go.Bar(
            x=list(range(len(names))), y=found.value, width=0.5, error_y=reach(found), showlegend=False,
            marker=dict(
                color=[PALETTE[n % len(PALETTE)] for n in numbers],
                pattern=dict(shape=[patterns[n % len(patterns)] for n in numbers], fillmode="overlay", fgcolor="white"),
            ),
            customdata=np.stack([np.asarray(names, dtype=object), hover(found)], -1),
            hovertemplate="%{customdata[0]}: %{customdata[1]}<extra></extra>",
        )
    )  # fmt: skip


def plot_halting(result: Halting) -> go.Figure:
    """Share of prompts after which the model halts by itself, per condition; random directions beside their edit."""
    found = proportion(result.halted, result.groups)
    names = [word(name).replace(" + ", "<br>+ ").replace(" - ", "<br>− ") for name in result.conditions]
    made = go.Figure()
    _bars(made, names, found, [{"token": 0, "neutral token": 6}.get(name, 1) for name in result.conditions])
    null = mean_value(result.random)
    beside = ("neutral token + direction", "token - direction")
    for action, condition in enumerate(beside):
        if len(null) and condition in result.conditions:
            made.add_trace(
                strip(
                    result.conditions.index(condition) + 0.38, null[:, action], _numbered("random", len(null)),
                    f"random directions ({len(null)})", half=0.08, legendgroup="random", showlegend=action == 0,
                )
            )  # fmt: skip
    where = f"; direction added at {word(result.where)}, projected out there at every depth" if result.where else ""
    heading(
        made,
        f"Halting: share of prompts after which the model ends its text within {number_of(result.within, 'token')}",
        f"the model writes on from the token, most likely token each time{where}",
        f"{number_of(len(result.halted), 'prompt')}, error bars 95 % (Wilson, {int(found.n.max(initial=0))} groups)"
        + ("; open markers: random directions of the same length in the same edit" if len(null) else ""),
        width=max(720, 180 + 150 * len(names)), height=460,
    )  # fmt: skip
    made.update_xaxes(**ticks(names), range=[-0.5, len(names) - 0.3], showgrid=False)
    made.update_yaxes(title="share that halts", range=[0, 1.04])
    return made


def plot_side_effects(result: SideEffects) -> go.Figure:
    """Divergence on unrelated text under each edit, beside random directions."""
    found, null = mean(result.values, result.groups), mean_value(result.random)
    made = go.Figure()
    _bars(made, list(result.edits), found, [0, 1][: len(result.edits)] or list(range(len(result.edits))))
    for place in range(len(result.edits)):
        if len(null):
            made.add_trace(
                strip(
                    place + 0.4, null[:, place], _numbered("random", len(null)), f"random directions ({len(null)})",
                    half=0.1, legendgroup="random", showlegend=place == 0,
                )
            )  # fmt: skip
    texts = {"project out": "projected out at every<br>depth and token", "add": "added once,<br>at the second token"}
    heading(
        made,
        "Side effects: divergence of the next-token distributions on unrelated text (nats)",
        f"from the model without the edit; mean over {number_of(len(result.values), 'text')}, "
        f"{interval(found, 'error bars')}; 0 is no change",
        "open markers: random directions of the same length, edited alike",
        width=700, height=460,
    )  # fmt: skip
    names = [texts.get(edit, word(edit)) for edit in result.edits]
    made.update_xaxes(**ticks(names), range=[-0.5, len(names) - 0.3], showgrid=False)
    made.update_yaxes(title="Kullback-Leibler divergence (nats)", rangemode="tozero")
    return made


def plot_transfer(result: Transfer) -> go.Figure:
    """Probability of the end with directions from elsewhere, beside no edit and the strongest random direction."""
    found = mean(result.values, result.groups)
    base = float(mean_value(result.base))
    nulls = {"random": mean_value(result.random), "neutral": mean_value(result.neutral)}
    most = {which: float(np.nanmax(null, initial=-np.inf)) for which, null in nulls.items()}
    names = ["<br>".join(map(word, wrap(source, 20))) or word(source) for source in result.sources]
    made = go.Figure()
    _bars(made, names, found, [0] * len(names))
    ends = [-0.5, len(names) - 0.5]
    for value, name, line in (
        (most["random"], f"strongest of {number_of(len(nulls['random']), 'random direction')}", CONTROL),
        (most["neutral"], f"of {number_of(len(nulls['neutral']), 'neutral token')}", dict(color=GREY, width=1.5)),
        (base, "without an edit", dict(color="black", dash="dash", width=1.5)),
    ):
        if np.isfinite(value):
            made.add_trace(
                go.Scatter(x=ends, y=[value, value], mode="lines", name=f"{name} ({value:.3f})", line=line,
                           hoverinfo="skip")
            )  # fmt: skip
    heading(
        made,
        "Transfer: probability of the end with a direction from elsewhere added",
        f"added to neutral twins at {word(result.where)}; mean over {number_of(len(result.values), 'prompt')}, "
        f"{interval(found, 'error bars')}",
        "all of one length; grey: the random and the neutral direction that does most (dotted, solid); dashed: no edit",
        width=max(760, 260 + 110 * len(names)), height=470,
    )  # fmt: skip
    made.update_xaxes(title="where the direction comes from", **ticks(names, most=99), range=ends, showgrid=False)
    made.update_yaxes(title="probability of the end", range=[0, 1.04])
    made.update_layout(legend=dict(orientation="h", x=1, xanchor="right", y=1.0, yanchor="bottom"))
    return made


def plot_along_training(result: AlongTraining) -> go.Figure:
    """Behaviour and cause by checkpoint, and the trace by depth and checkpoint."""
    x = list(range(len(result.checkpoints)))
    names = [word(name) for name in result.checkpoints]
    made = make_subplots(
        rows=1, cols=2, horizontal_spacing=0.1,
        subplot_titles=["probability of the end, by checkpoint", "norm of the delta / norm of the stream, by depth"],
    )  # fmt: skip
    low, high, most = quantiles(mean_value(result.rivals), (0.025, 0.975, 1.0))
    left = dict(legendgroup="left")
    made.add_trace(ribbon(x, low, high, GREY, "random and neutral directions, 95 %", alpha=0.28, **left), row=1, col=1)
    made.add_trace(
        go.Scatter(
            x=x, y=most, name=f"strongest of {result.rivals.shape[1]}", mode="lines",
            line=dict(color=GREY, width=1.2), hoverinfo="skip", **left,
        ),
        row=1, col=1,
    )  # fmt: skip
    for name, values, number in (
        ("with the token", result.end_prob, 0),
        ("own direction added", result.own, 1),
        ("last one's direction added", result.final, 2),
        ("neutral token", result.neutral_end_prob, 3),
    ):
        for trace in curve(x, mean(values, result.groups), name, number, labels=names, **left):
            made.add_trace(trace, row=1, col=1)
    norm, null = mean(result.norm, result.groups), mean_value(result.null_norm)
    depths = list(range(len(result.depths)))
    shown = some(len(x), 6)
    shades = sample_colorscale(SEQUENTIAL, np.linspace(0.0, 0.82, len(shown)).tolist())
    for number, i in enumerate(shown):
        name = names[i]
        right: dict[str, Any] = dict(row=1, col=2)
        made.add_trace(
            go.Scatter(
                x=depths, y=null[i], mode="lines", line=CONTROL, name="neutral tokens' mean", showlegend=number == 0,
                legendgroup="neutral", hovertemplate=f"neutral tokens, {name}: %{{y:.3f}}<extra></extra>",
            ),
            **right,
        )  # fmt: skip
        part = norm[i]
        made.add_trace(
            go.Scatter(
                x=depths, y=part.value, name=name, mode="lines+markers", legendgroup="right",
                line=dict(color=shades[number], dash=DASHES[-1 - number], width=2),
                marker=dict(symbol=MARKERS[number], size=8 if len(depths) <= 14 else 5, color=shades[number]),
                customdata=np.stack([np.asarray(result.depths, dtype=object), hover(part)], -1),
                hovertemplate=f"{name}, %{{customdata[0]}}: %{{customdata[1]}}<extra></extra>",
            ),
            **right,
        )  # fmt: skip
    heading(
        made,
        "Along training: probability of the end, and size of the token's delta, at each checkpoint",
        f"mean over {number_of(len(result.end_prob), 'prompt')}, {interval(norm, 'bands')} (right: on hover); "
        f"directions added to neutral twins at {word(result.where)}",
        "all directions as long as the last one's; grey: random and neutral ones; dotted: neutral tokens in its place"
        + (f"; right: {len(shown)} of {len(x)} checkpoints" if len(shown) < len(x) else ""),
        top=24, width=1180, height=520,
    )  # fmt: skip
    made.update_xaxes(title="checkpoint", **ticks(names, most=9), row=1, col=1)
    made.update_xaxes(title="depth: residual stream after", **ticks(list(result.depths), most=9), row=1, col=2)
    made.update_yaxes(range=[-0.03, 1.03], row=1, col=1)
    made.update_yaxes(rangemode="tozero", row=1, col=2)
    made.update_layout(legend=dict(tracegroupgap=14))
    return made
