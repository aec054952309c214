"""Curves: over depth what lens and probes read, over steps what ablation leaves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from interp.analyses.attribution import LogitAttribution
from interp.analyses.circuits import CumulativeAblation
from interp.analyses.logit_lens import LogitLens
from interp.analyses.probing import Probing
from interp.estimates import Estimate, mean, proportion
from interp.figures.grids import heat
from interp.figures.theme import CONTROL, DASHES, GREY, MARKERS, PALETTE, SEQUENTIAL, figure, rgba, safe


def band(made: go.Figure, x: Sequence[str | int], estimate: Estimate, name: str, number: int) -> None:
    """A line with its 95 % band, told apart by colour, dash and marker."""
    color = PALETTE[number % len(PALETTE)]
    # Where there is no interval the band has no width: a gap would tie its ends to each other.
    low, high = (np.where(np.isnan(end), estimate.value, end) for end in (estimate.low, estimate.high))
    made.add_trace(
        go.Scatter(
            x=[*x, *x[::-1]], y=np.concatenate([high, low[::-1]]), fill="toself", mode="lines",
            fillcolor=rgba(color, 0.15), line=dict(width=0), hoverinfo="skip", showlegend=False,
        )
    )  # fmt: skip
    made.add_trace(
        go.Scatter(
            x=x, y=estimate.value, name=name, mode="lines+markers",
            line=dict(color=color, dash=DASHES[number % len(DASHES)], width=2),
            marker=dict(symbol=MARKERS[number % len(MARKERS)], size=8),
            customdata=np.stack([estimate.low, estimate.high], -1),
            hovertemplate=f"{name}, %{{x}}: %{{y:.3f}} [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}]<extra></extra>",
        )
    )  # fmt: skip


def plot_logit_lens(result: LogitLens) -> go.Figure:
    """Share of prompts whose answer token is the top one at each depth, by answer token, with the control."""
    right, control = (proportion(x, result.groups) for x in (result.right, result.control_right))
    made = figure(
        "Logit lens: when each answer token becomes readable",
        "share of prompts with the answer on top; bands 95 %; dotted grey: another prompt's answer (control)",
        height=460,
        yaxis=dict(title="share with the answer on top", range=[-0.03, 1.03]),
        xaxis=dict(title="depth: residual stream after"),
    )
    depths = list(result.depths)
    for i, name in enumerate(result.positions):
        if np.isnan(right.value[:, i]).all():
            continue
        band(made, depths, right[:, i], safe(name), i)
        made.add_trace(
            go.Scatter(
                x=depths, y=control.value[:, i], name="control", showlegend=i == 0, line=CONTROL, mode="lines",
                legendgroup="control",
            )
        )  # fmt: skip
    return made


def plot_probing(result: Probing) -> go.Figure:
    """Accuracy of the probes at every depth, by position, with their control task and the commonest label."""
    accuracy = result.accuracy()
    control = mean(result.control, result.groups).value
    majority = float(np.nanmax(mean(result.majority, result.groups).value))
    made = figure(
        f"Probes for {safe(result.label)}",
        f"held-out accuracy; bands 95 %; dotted grey: control task on {safe(result.key)}; line: the commonest label",
        height=460,
        yaxis=dict(title="accuracy", range=[-0.03, 1.03]),
        xaxis=dict(title="depth: residual stream after"),
    )
    depths = list(result.depths)
    made.add_hline(y=majority, line=dict(color=GREY, width=1))
    for i, name in enumerate(result.positions):
        if np.isnan(accuracy.value[:, i]).all():
            continue
        band(made, depths, accuracy[:, i], safe(name), i)
        made.add_trace(
            go.Scatter(
                x=depths, y=control[:, i], name="control task", showlegend=i == 0, line=CONTROL, mode="lines",
                legendgroup="control",
            )
        )  # fmt: skip
    return made


def plot_cumulative(result: CumulativeAblation) -> go.Figure:
    """The first metric as parts are taken away, in order and in random orders."""
    own, control, _ = result.curve()
    steps = ["whole model", *(f"− {part}" for part in result.parts)]
    made = figure(
        f"Cumulative ablation: {safe(result.metrics[0])} as parts are taken away",
        f"{result.kind} ablation; bands 95 %; random: mean over {result.random.shape[1]} random orders",
        width=max(700, 220 + 46 * len(steps)),
        yaxis=dict(title=safe(result.metrics[0])),
    )
    band(made, steps, own, "by importance", 0)
    band(made, steps, control, "random order", 6)
    return made


def plot_accumulated(result: LogitAttribution) -> go.Figure:
    """The metric as the stream fills: the sum up to each component, under the final norm's scale."""
    found = mean(result.accumulated, result.groups)
    made = figure(
        "Accumulated residual: the answer's logit as the stream fills",
        f"{safe(result.unit)}; sum up to each component, with the final norm's scale of the whole stream; band 95 %",
        width=max(640, 180 + 60 * len(result.components)),
        yaxis=dict(title=safe(result.unit)),
        xaxis=dict(title="up to and with"),
    )
    band(made, [safe(name) for name in result.components], found, "accumulated", 0)
    made.update_layout(showlegend=False)
    return made


def _tokens(result: LogitLens, prompt: int) -> tuple[list[int], list[str], list[str]]:
    """Positions this prompt has, their names, and their answers' texts."""
    here = [i for i in range(len(result.positions)) if not bool(result.entropy[prompt, 0, i].isnan())]
    answers = [result.tokens.get(str(int(result.answers[prompt, i])), "?") for i in here]
    return here, [result.positions[i] for i in here], answers


def plot_prediction_evolution(result: LogitLens, prompt: int) -> go.Figure:
    """The top token and its probability at every depth and position of one prompt."""
    here, names, answers = _tokens(result, prompt)
    depths = list(result.depths)
    top = result.top_ids[prompt][:, here, 0]
    probability = result.top_probs[prompt][:, here, 0].numpy()
    words = [[safe(result.tokens.get(str(int(i)), "?")) for i in row] for row in top]
    made = figure(
        f"Prediction evolution: {safe(result.texts[prompt])}",
        "top token of the logit lens at each depth; colour is its probability; in brackets the right answer",
        width=max(520, 200 + 90 * len(here)),
        height=200 + 44 * len(depths),
        yaxis=dict(title="residual stream after"),
    )
    made.add_trace(
        go.Heatmap(
            z=probability, x=[f"{safe(n)} [{safe(a)}]" for n, a in zip(names, answers, strict=True)], y=depths,
            text=words, texttemplate="%{text}", textfont=dict(size=15), zmin=0, zmax=1, colorscale=SEQUENTIAL,
            colorbar=dict(title=dict(text="probability", side="right"), thickness=12), xgap=1, ygap=1,
            hovertemplate="%{y}, %{x}: %{text} (p = %{z:.3f})<extra></extra>",
        )
    )  # fmt: skip
    made.update_layout(margin=dict(b=110))
    return made


def plot_predictions_per_layer(result: LogitLens, prompt: int) -> go.Figure:
    """The most likely tokens at every depth, for the first position of one prompt that has an answer."""
    here, names, answers = _tokens(result, prompt)
    position = here[0]
    depths = list(result.depths)
    ids, probs = result.top_ids[prompt, :, position], result.top_probs[prompt, :, position]
    words = np.array([[result.tokens.get(str(int(i)), "?") for i in row] for row in ids], dtype=object)
    made = figure(
        f"Predictions per layer: {safe(result.texts[prompt])}, {safe(names[0])}",
        f"the {ids.shape[1]} likeliest tokens of the logit lens and their probabilities; right: {safe(answers[0])}",
        width=max(560, 160 + 110 * ids.shape[1]),
        height=200 + 44 * len(depths),
        yaxis=dict(title="residual stream after"),
    )
    shown = heat(probs.numpy().astype(float), [f"{i + 1}." for i in range(ids.shape[1])], depths, limits=(0, 1))
    shown.text = [
        [f"{safe(w)}  {float(p):.2f}" for w, p in zip(r, q, strict=True)] for r, q in zip(words, probs, strict=True)
    ]
    shown.texttemplate = "%{text}"
    shown.textfont = dict(size=13)
    made.add_trace(shown)
    return made


def plot_entropy(result: LogitLens, prompt: int) -> go.Figure:
    """Entropy of the lens' distribution at every depth of one prompt."""
    here, names, _ = _tokens(result, prompt)
    made = figure(
        f"Entropy of the prediction by depth: {safe(result.texts[prompt])}",
        "of the logit lens' distribution; 0 is certainty",
        yaxis=dict(title="entropy (nats)", rangemode="tozero"),
        xaxis=dict(title="residual stream after"),
    )
    for i, (position, name) in enumerate(zip(here, names, strict=True)):
        made.add_trace(
            go.Scatter(
                x=list(result.depths), y=result.entropy[prompt, :, position].numpy(), name=safe(name),
                mode="lines+markers", line=dict(color=PALETTE[i % len(PALETTE)], dash=DASHES[i % len(DASHES)]),
                marker=dict(symbol=MARKERS[i % len(MARKERS)], size=8),
            )
        )  # fmt: skip
    return made
