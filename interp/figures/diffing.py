"""Two models side by side: what fine-tuning changed in vectors, in readouts and in weights."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from interp.analyses.deltas import MEASURES, DeltaNorms
from interp.analyses.diffing import CrossedReadout, DifferenceLens
from interp.analyses.weight_changes import WeightChanges
from interp.errors import ConfigError
from interp.estimates import Estimate, mean, mean_value
from interp.figures.deltas import (
    curve,
    hatched,
    heading,
    interval,
    legend_below,
    number_of,
    quantiles,
    ribbon,
    site_ticks,
    ticks,
    word,
    write_in,
)
from interp.figures.grids import heat
from interp.figures.theme import CONTROL, GREY, PALETTE

_MOST_MODULES = 24


def change_of_norms(base: DeltaNorms, tuned: DeltaNorms) -> tuple[Estimate, Float[np.ndarray, "quantile site"]]:
    """Relative norm at the token, fine-tuned less base: mean over the same prompts, and the neutral tokens' 2.5, 50 and
    97.5 % quantiles of the same."""
    if (
        base.values.shape != tuned.values.shape
        or base.depths != tuned.depths
        or bool((base.groups != tuned.groups).any())
    ):
        raise ConfigError("the two results are of other prompts or sites; make both from the same twins")
    index = MEASURES.index("relative")
    found = mean((tuned.values - base.values)[:, :, 0, index], tuned.groups)
    if base.neutral != tuned.neutral:
        return found, np.full((3, len(base.depths)), np.nan)
    null = mean_value((tuned.null - base.null)[:, :, :, 0, index])
    return found, quantiles(null, (0.025, 0.5, 0.975))


def plot_base_against_tuned(base: DeltaNorms, tuned: DeltaNorms, crossed: CrossedReadout | None) -> go.Figure:
    """Size of the delta in both models, its change, and which half of the model the behaviour came with."""
    token, depths = word(tuned.token), tuned.depths
    x = list(range(len(depths)))
    apart, null = change_of_norms(base, tuned)
    titles = ["norm of the delta / norm of the stream, at the token"]
    titles += ["probability of the end by body and head"] if crossed is not None else []
    made = make_subplots(
        rows=2, cols=1 if crossed is None else 2, row_heights=[0.58, 0.42], vertical_spacing=0.1,
        shared_xaxes="columns",  # type: ignore[arg-type]
        column_widths=[1.0] if crossed is None else [0.7, 0.3], horizontal_spacing=0.13,
        specs=[[{}, {"rowspan": 2}], [{}, None]] if crossed is not None else [[{}], [{}]],
        subplot_titles=[*titles, "fine-tuned less base, on the same prompts"],
    )  # fmt: skip
    for number, (name, part) in enumerate((("base", base), ("fine-tuned", tuned))):
        low, middle, high = part.band()[..., 0]
        color = PALETTE[number]
        band = ribbon(x, low, high, GREY, alpha=(0.14, 0.3)[number])
        band.update(name=f"neutral tokens, 95 %, {name}", showlegend=True)
        if number == 0:
            band.update(fillpattern=hatched())
        made.add_trace(band, row=1, col=1)
        made.add_trace(
            go.Scatter(x=x, y=middle, mode="lines", line=CONTROL | dict(color=color), hoverinfo="skip",
                       name=f"median neutral token, {name}"),
            row=1, col=1,
        )  # fmt: skip
        for trace in curve(x, part.estimate()[:, 0], f"the token, {name}", number, labels=depths):
            made.add_trace(trace, row=1, col=1)
    made.add_trace(ribbon(x, null[0], null[2], GREY, alpha=0.3), row=2, col=1)
    made.add_trace(
        go.Scatter(x=x, y=null[1], mode="lines", line=CONTROL, hoverinfo="skip", showlegend=False), row=2, col=1
    )
    for trace in curve(x, apart, "the token, fine-tuned less base", 2, labels=depths):
        made.add_trace(trace, row=2, col=1)
    made.add_hline(y=0, line=dict(color="#444", width=1), row=2, col=1)  # type: ignore[arg-type]
    if crossed is not None:
        made.add_trace(_crossed(crossed), row=1, col=2)
    heading(
        made,
        f"Before and after fine-tuning: size of {token}'s delta by site",
        f"mean over {number_of(len(tuned.values), 'prompt')}, {interval(apart, 'bands')}; grey: "
        f"{len(tuned.neutral)} neutral tokens in its place, in either model and in their difference",
        "right: body of one model through the final norm and unembedding (head) of the other; in brackets with a "
        "neutral token" if crossed is not None else "",
        top=24, width=(860 if crossed is None else 1160) + min(360, 12 * max(0, len(x) - 13)), height=680,
    )  # fmt: skip
    made.update_xaxes(**site_ticks(depths), col=1)
    made.update_xaxes(title="site, in the order of computation", row=2, col=1)
    made.update_yaxes(title="relative norm", rangemode="tozero", row=1, col=1)
    made.update_yaxes(title="change of relative norm", row=2, col=1)
    if crossed is not None:
        made.update_xaxes(title="head of", row=1, col=2)
        made.update_yaxes(title="body of", autorange="reversed", row=1, col=2)
    legend_below(made, entry=205, below=84 if len(x) <= 16 else 52)
    return made


def _crossed(result: CrossedReadout) -> go.Heatmap:
    """Mean probability of the end for each body and head; in brackets with a neutral token."""
    own, null = mean(result.values, result.groups), mean_value(result.neutral)
    grid = heat(own.value, result.heads, result.bodies, limits=(0, 1))
    text = np.empty(own.value.shape, dtype=object)
    for index in np.ndindex(*own.value.shape):
        text[index] = f"{own.value[index]:.2f}<br>({null[index]:.2f})".replace("nan", "–")
    said = np.empty(own.value.shape, dtype=object)
    for index in np.ndindex(*own.value.shape):
        said[index] = f"{own.value[index]:.3f} [{own.low[index]:.3f}, {own.high[index]:.3f}]; neutral {null[index]:.3f}"
    grid.update(text=text, texttemplate="%{text}", textfont=dict(size=15), customdata=said)
    grid.update(hovertemplate="body %{y}, head %{x}: %{customdata}<extra></extra>")
    return grid


def plot_difference_lens(result: DifferenceLens) -> go.Figure:
    """How far the mean difference of two models promotes each word, by depth and position; what it promotes most."""
    z = result.z.double().numpy()
    n, last, places = len(result.words), result.depths[-1], list(result.positions)
    rows = result.top.shape[-1]
    above, between, below = 27 * len(result.depths) + 40, 92, 25 * rows + 10
    made = make_subplots(
        rows=2, cols=n, vertical_spacing=between / (above + between + below), horizontal_spacing=0.1 / n,
        row_heights=[above, below], specs=[[{}] * n, [{"colspan": n}, *[None] * (n - 1)]], shared_yaxes=True,
        subplot_titles=[*(f"z of {word(w)}" for w in result.words), f"most promoted tokens at {last}, by position"],
    )  # fmt: skip
    reach = float(np.max(np.abs(z[np.isfinite(z)]), initial=1e-9))
    for i in range(n):
        grid = heat(
            z[..., i], places, result.depths, said=_said(result, i), diverging=True, limits=(-reach, reach), digits=1,
            colorbar="standard deviations" if i == n - 1 else None,
        )  # fmt: skip
        write_in(grid, z[..., i], 1)
        made.add_trace(grid, row=1, col=i + 1)
    made.add_trace(_promoted(result), row=2, col=1)
    heading(
        made,
        "What the difference of the two models promotes on unrelated text, read through the unembedding",
        f"fine-tuned less base, mean over {number_of(len(result.relative), 'text')} at their first tokens; z: standard "
        "deviations over the vocabulary",
        "a lens on the mean difference, so there is no interval; on hover: rank, share that all texts have in common, "
        "most promoted tokens",
        top=26, width=max(820, 200 + n * (90 + 62 * len(places))), height=above + between + below + 190,
    )  # fmt: skip
    made.update_xaxes(title="position in the text", type="category")
    made.update_yaxes(title="depth: residual stream after", row=1, col=1)
    made.update_yaxes(title="rank", type="category", autorange="reversed", row=2, col=1)
    made.update_traces(colorbar=dict(y=1, yanchor="top", len=min(150, above)), selector=dict(showscale=True))
    return made


def _promoted(result: DifferenceLens) -> go.Heatmap:
    """The tokens promoted most at the last depth, a column for each position; those asked about stand out."""
    names = np.array([[result.names.get(str(int(i)), "?") for i in row] for row in result.top[-1]], dtype=object).T
    asked = np.isin(names, list(result.words))
    return go.Heatmap(
        z=asked.astype(float), x=list(result.positions), y=[f"{i + 1}." for i in range(len(names))], zmin=0, zmax=1,
        text=[[f"<b>{word(t)}</b>" if t in result.words else word(t) for t in row] for row in names],
        texttemplate="%{text}", textfont=dict(size=12, color="#1c1c1c"), showscale=False, xgap=1, ygap=1,
        colorscale=[[0, "#f4f4f4"], [1, "#f6d9c4"]], hovertemplate="position %{x}, rank %{y} %{text}<extra></extra>",
    )  # fmt: skip


def _said(result: DifferenceLens, i: int) -> np.ndarray:
    """What a cell says: z, rank, and the tokens promoted most there."""
    relative = mean_value(result.relative)
    shown = np.empty(result.z.shape[:2], dtype=object)
    for index in np.ndindex(*shown.shape):
        top = ", ".join(word(result.names.get(str(int(k)), "?")) for k in result.top[index])
        shown[index] = (
            f"z = {float(result.z[index][i]):.2f}, {int(result.rank[index][i]):,} tokens promoted more<br>relative "
            f"norm {relative[index]:.3f}, of it shared {float(result.shared[index]):.2f}<br>top: {top}"
        )
    return shown


def _short(module: str) -> str:
    """A module's name without what all of them have."""
    for part in ("base_model.", "model.", "transformer."):
        module = module.removeprefix(part)
    return word(module.removesuffix(".weight"))


def plot_weight_changes(result: WeightChanges) -> go.Figure:
    """Relative size of the largest changes by module, and their effective rank beside a random matrix's."""
    relative = result.relative.double().numpy()
    order = np.argsort(-np.where(np.isfinite(relative), relative, -1.0), kind="stable")
    order = order[np.isfinite(relative[order])]
    kept = order[:_MOST_MODULES]
    names = [_short(result.modules[i]) for i in kept]
    shapes = [" x ".join(map(str, result.shapes[i])) for i in kept]
    rank, random = (x.double().numpy()[kept] for x in (result.effective_rank, result.random_rank))
    top = result.top_share.double().numpy()[kept]
    y = list(range(len(kept)))
    largest, widest = (float(np.max(x[np.isfinite(x)], initial=0.0)) for x in (relative[kept], np.append(rank, random)))
    digits = 1 if largest >= 0.05 else 2
    made = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.05,
        subplot_titles=["norm of the change / norm before", "effective rank of the change / of a random matrix"],
    )  # fmt: skip
    made.add_trace(
        go.Bar(
            x=relative[kept], y=y, orientation="h", marker=dict(color=PALETTE[0]), showlegend=False,
            text=[f"{value:.{digits}%}" for value in relative[kept]], textposition="outside", cliponaxis=False,
            customdata=np.stack([np.asarray(names, dtype=object), np.asarray(shapes, dtype=object)], -1),
            hovertemplate="%{customdata[0]} (%{customdata[1]}): %{x:.4f}<extra></extra>",
        ),
        row=1, col=1,
    )  # fmt: skip
    made.add_trace(
        go.Bar(
            x=rank, y=y, orientation="h", name="the change",
            marker=dict(color=PALETTE[1], pattern=dict(shape="/", fillmode="overlay", fgcolor="white", size=7)),
            customdata=np.stack([np.asarray(names, dtype=object), top.astype(object)], -1),
            hovertemplate="%{customdata[0]}: %{x:.1f}; first direction %{customdata[1]:.2f} of its squared norm"
            "<extra></extra>",
        ),
        row=1, col=2,
    )  # fmt: skip
    made.add_trace(
        go.Scatter(
            x=random, y=y, mode="markers", name="a random matrix of its shape",
            marker=dict(symbol="line-ns", size=13, line=dict(color="#333333", width=2.5)),
            hovertemplate="random: %{x:.1f}<extra></extra>",
        ),
        row=1, col=2,
    )  # fmt: skip
    made.add_trace(
        go.Scatter(
            x=[1.03 * widest] * len(kept), y=y, mode="text", textposition="middle right", showlegend=False,
            text=["" if np.isnan(r) else f"{r:.1f} / {control:.0f}" for r, control in zip(rank, random, strict=True)],
            textfont=dict(size=11, color=GREY), hoverinfo="skip", cliponaxis=False,
        ),
        row=1, col=2,
    )  # fmt: skip
    skipped = len(relative) - len(order)
    heading(
        made,
        "Weights that fine-tuning changed: relative size and effective rank of each module's change",
        f"the {len(kept)} largest of {number_of(len(relative), 'module')}, in order of size"
        + (f"; {number_of(skipped, 'module')} without a finite share left out" if skipped else "")
        + "; vectors have no rank; weights alone, no prompt, no interval",
        "mark: effective rank of one Gaussian matrix of the same shape (control: a change without structure)",
        top=24, width=980, height=230 + 24 * len(kept), bargap=0.3,
    )  # fmt: skip
    made.update_yaxes(range=[len(y) - 0.4, -0.6], showgrid=False, **ticks(names, most=99))
    made.update_xaxes(tickformat=f".{digits - 1}%", range=[0, 1.18 * largest or 1], row=1, col=1)
    made.update_xaxes(range=[0, 1.28 * widest or 1], row=1, col=2)
    made.update_layout(legend=dict(orientation="h", x=1, xanchor="right", y=-0.06, yanchor="top"))
    return made
