"""A judge's verdicts: how good, through which tokens, heads and layers, how fooled, and what an update changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from interp.analyses.conductance import Conductance
from interp.analyses.faithfulness import Faithfulness
from interp.analyses.separation import Separation
from interp.analyses.token_attribution import TokenAttribution
from interp.analyses.verdicts import Verdicts
from interp.estimates import Estimate, mean, mean_value, proportion
from interp.figures.deltas import curve, heading, reach, short
from interp.figures.grids import heat, hover
from interp.figures.theme import CONTROL, GREY, MARKERS, PALETTE, figure, rgba, safe, style
from interp.workflows.adversarial import EditSearch
from interp.workflows.judge_heads import MEASURES, JudgeHeads
from interp.workflows.paths import SafeUnsafePaths
from interp.workflows.update import UpdateComparison

SAFE, UNSAFE = PALETTE[0], PALETTE[1]
SIGNED = [[0.0, SAFE], [0.5, "#ffffff"], [1.0, UNSAFE]]
"""Blue towards safe, orange towards unsafe, white at 0."""
TOP = 10


def points(
    estimate: Estimate, x: Sequence[str] | Sequence[float], name: str, number: int, **options: object
) -> go.Scatter:
    """Values with their intervals, told apart by colour and marker."""
    return go.Scatter(
        x=list(x), y=estimate.value, name=name, mode="markers", error_y=reach(estimate),
        marker=dict(color=PALETTE[number], symbol=MARKERS[number], size=10), customdata=hover(estimate),
        hovertemplate=f"{name}, %{{x}}: %{{customdata}}<extra></extra>", **options,
    )  # fmt: skip


def stacked(parts: Sequence[Estimate]) -> Estimate:
    """Single estimates side by side."""
    return Estimate(*(np.stack([getattr(part, name) for part in parts]) for name in ("value", "low", "high", "p", "n")))


def plot_verdicts(result: Verdicts) -> go.Figure:
    """Log-odds of safe and unsafe prompts."""
    made = figure(
        "Log-odds of unsafe by the truth",
        f"{len(result.log_odds)} prompts; AUC {result.auc()!r}; accuracy {float(result.accuracy().value):.1%}",
        xaxis=dict(title="log-odds of unsafe (nats); above 0 the judge says unsafe"), yaxis=dict(title="prompts"),
        barmode="overlay",
    )  # fmt: skip
    values = result.log_odds.numpy()
    edges = np.histogram_bin_edges(values[np.isfinite(values)], 40)
    for side, name, color in ((False, "safe", SAFE), (True, "unsafe", UNSAFE)):
        counts = np.histogram(values[result.unsafe.numpy() == side], edges)[0]
        made.add_trace(
            go.Bar(
                x=(edges[1:] + edges[:-1]) / 2, y=counts, width=np.diff(edges), name=f"{name} by the truth",
                marker=dict(
                    color=rgba(color, 0.6), pattern=dict(shape="/" if side else "", fgcolor=color, bgcolor="white")
                ),
            )
        )  # fmt: skip
    made.add_vline(x=0, line=CONTROL)
    return made


def plot_sets(results: Mapping[str, Verdicts]) -> go.Figure:
    """Accuracy and AUC on several sets."""
    names = [f"{safe(name)} ({len(one.log_odds):,})" for name, one in results.items()]
    made = figure(
        "How good the verdicts are, set by set", "bars 95 %, in accuracy by template; dotted: chance",
        width=max(640, 160 + 130 * len(names)), scattermode="group", yaxis=dict(title="share", range=[0, 1.03]),
    )  # fmt: skip
    made.add_trace(points(stacked([one.accuracy() for one in results.values()]), names, "accuracy", 0))
    made.add_trace(points(stacked([one.auc() for one in results.values()]), names, "AUC", 1))
    made.add_hline(y=0.5, line=CONTROL)
    return made


def plot_tokens(result: TokenAttribution, tokens: Sequence[Sequence[str]], most: int = 10) -> go.Figure:
    """Signed shares of every token of the first texts; `tokens` are the pieces of each text."""
    shown = list(range(min(most, len(tokens), len(result.values))))
    rows = [result.values[i][~result.values[i].isnan()].numpy() for i in shown]
    width = max(len(row) for row in rows)
    grid = np.full((len(rows), width), np.nan)
    text = np.full((len(rows), width), "", dtype=object)
    for i, row in enumerate(rows):
        grid[i, : len(row)] = row
        text[i, : len(row)] = [short(token.strip() or token, 10) for token in tokens[shown[i]]][: len(row)]
    limit = float(np.nanmax(np.abs(grid))) or 1.0
    names = [f"{i}: {result.score[i]:+.1f}{' (flagged)' if result.flagged[i] else ''}" for i in shown]
    made = go.Figure(
        go.Heatmap(
            z=grid, y=names, text=text, texttemplate="%{text}", textfont=dict(size=10.5, color="#1c1c1c"), zmin=-limit,
            zmax=limit, colorscale=SIGNED, xgap=1, ygap=3, hoverongaps=False,
            colorbar=dict(title=dict(text="nats towards unsafe", side="right"), thickness=12),
            hovertemplate="%{text}: %{z:.2f} nats<extra></extra>",
        )
    )  # fmt: skip
    style(
        made, f"Token attribution by {result.method}: which tokens drove each verdict",
        f"baseline: {safe(result.baseline)}; orange towards unsafe, blue towards safe; left the log-odds; flagged: the "
        "shares miss the whole by over 5 %",
        width=170 + 58 * width, height=190 + 34 * len(rows),
    )  # fmt: skip
    made.update_yaxes(autorange="reversed")
    made.update_xaxes(showticklabels=False, title="tokens in their order")
    return made


def plot_faithfulness(results: Sequence[Faithfulness], untrained: Sequence[Faithfulness] = ()) -> go.Figure:
    """Recall, comprehensiveness and sufficiency of several methods at one k."""
    names = [safe(one.method) for one in results]
    made = make_subplots(
        rows=1, cols=2, subplot_titles=["recall of the words that decide", "change of the log-odds"],
        horizontal_spacing=0.12,
    )  # fmt: skip
    recall = stacked([mean(one.recall, one.groups) for one in results])
    made.add_trace(points(recall, names, "recall", 0), row=1, col=1)
    even = float(results[0].even.mean())
    made.add_hline(y=even, line=CONTROL, row=1, col=1)  # type: ignore[arg-type]
    if untrained:
        values = [float(one.recall.mean()) for one in untrained]
        made.add_trace(
            go.Scatter(
                x=[names[0]] * len(values), y=values, mode="markers",
                name=f"untrained judges ({safe(results[0].method)})",
                marker=dict(color=GREY, symbol="line-ew-open", size=12),
            ), row=1, col=1,
        )  # fmt: skip
    parts = {
        "without the k tokens (large is good)": [one.comprehensiveness for one in results],
        "with them alone (small is good)": [one.sufficiency for one in results],
        "without k random tokens": [one.random_comprehensiveness for one in results],
        "with k random tokens alone": [one.random_sufficiency for one in results],
    }
    for number, (name, values) in enumerate(parts.items(), 1):
        found = stacked([mean(value, one.groups) for value, one in zip(values, results, strict=True)])
        made.add_trace(points(found, names, name, number), row=1, col=2)
    made.update_yaxes(range=[-0.03, 1.05], row=1, col=1)
    made.update_yaxes(title="fall of the log-odds (nats)", row=1, col=2)
    heading(
        made, "Do attributions name the words that the verdict hangs on?",
        f"{len(results[0].recall)} requests; k is the number of words that decide; bars 95 %; dotted: recall by chance",
        width=1040, height=500, top=24, scattermode="group",
    )  # fmt: skip
    return made


def plot_conductance(result: Conductance, tokens: Sequence[str], prompt: int = 0) -> go.Figure:
    """Signed shares of every token after every layer, for one prompt; `tokens` are all of its tokens."""
    grid = result.values[prompt, :, : len(tokens)].double().numpy()
    limit = float(np.nanmax(np.abs(grid))) or 1.0
    rows = [f"after layer {layer}" for layer in result.layers]
    made = go.Figure(
        heat(grid, list(map(str, range(len(tokens)))), rows, diverging=True, limits=(-limit, limit), digits=1)
    )
    made.update_traces(colorscale=SIGNED)
    style(
        made, "Conductance: at which token the verdict flows after each layer",
        f"baseline: {safe(result.baseline)}; each row sums to "
        f"{float(result.score[prompt] - result.baseline_score[prompt]):.1f} nats, up to "
        f"{float(result.error[prompt].max()):.1%}",
        width=200 + 64 * len(tokens), height=240 + 40 * len(rows),
    )  # fmt: skip
    made.update_xaxes(
        tickmode="array", tickvals=list(range(len(tokens))), ticktext=[short(t.strip() or t) for t in tokens]
    )
    made.update_yaxes(autorange="reversed")
    return made


def plot_judge_heads(result: JudgeHeads, top: int = TOP) -> go.Figure:
    """The heads whose ablation tells most between unsafe and safe prompts, by all three measures."""
    found = {measure: result.contrast(measure) for measure in MEASURES}
    order = np.argsort(-np.abs(np.nan_to_num(found["ablation"].value)), kind="stable")[:top]
    names = [result.names[i] for i in order]
    looks = mean(result.values("attention"), result.groups)[order]
    titles = [
        "attention on the words that decide, beyond uniform",
        "direct: unsafe less safe",
        "ablation: unsafe less safe",
    ]
    made = make_subplots(rows=1, cols=3, subplot_titles=titles, horizontal_spacing=0.08)
    for column, part in enumerate((looks, found["direct"][order], found["ablation"][order]), 1):
        made.add_trace(
            go.Bar(
                x=names, y=part.value, error_y=reach(part), marker=dict(color=PALETTE[column - 1]), showlegend=False,
                customdata=hover(part), hovertemplate="%{x}: %{customdata}<extra></extra>",
            ), row=1, col=column,
        )  # fmt: skip
    made.update_yaxes(title="share of attention", row=1, col=1)
    made.update_yaxes(title="nats of the log-odds", row=1, col=2)
    agreement = "; ".join(f"{name} {float(one.value):.2f}" for name, one in result.agreement().items())
    heading(
        made, f"The {len(names)} heads that tell unsafe from safe most, by ablation",
        f"{len(result.log_odds)} requests; bars 95 % over templates", f"rank agreement over heads: {agreement}",
        width=max(960, 300 + 3 * 40 * len(names)), height=460,
    )  # fmt: skip
    return made


def plot_separation(result: Separation, untrained: Sequence[Separation] = ()) -> go.Figure:
    """Share of prompts on their own side at each depth, beside untrained judges."""
    made = figure(
        "Where safe and unsafe can be told apart",
        f"share of {len(result.positive)} prompts on their own side of the midpoint, learned on other templates; band "
        "95 %",
        yaxis=dict(title="share on their own side", range=[0.3, 1.02]), xaxis=dict(title="residual stream"),
    )  # fmt: skip
    x = list(range(len(result.depths)))
    for trace in curve(x, result.accuracy(), "this judge", 0, labels=result.depths):
        made.add_trace(trace)
    for i, other in enumerate(untrained):
        made.add_trace(
            go.Scatter(
                x=x, y=mean_value(other.right), mode="lines", line=CONTROL, name="untrained", showlegend=i == 0,
                legendgroup="untrained", hoverinfo="skip",
            )
        )  # fmt: skip
    made.update_xaxes(tickmode="array", tickvals=x, ticktext=list(result.depths))
    return made


def plot_paths(result: SafeUnsafePaths) -> go.Figure:
    """How far twins are apart by depth, and what copying each layer's output between them moves."""
    depths = ["embed", *(f"layer {layer}" for layer in range(result.distance.shape[1] - 1))]
    layers = [f"layer {layer}" for layer in result.layers]
    made = make_subplots(
        rows=1, cols=2, subplot_titles=["distance and cosine at the verdict", "copied from the twin"],
        horizontal_spacing=0.12,
    )  # fmt: skip
    for number, (name, values) in enumerate((("distance / norm", result.distance), ("cosine", result.cosine))):
        for trace in curve(range(len(depths)), mean(values, result.groups), name, number, labels=depths):
            made.add_trace(trace, row=1, col=1)
    made.update_xaxes(tickmode="array", tickvals=list(range(len(depths))), ticktext=depths, row=1, col=1)
    parts = {"to unsafe": result.to_unsafe, "to safe": result.to_safe, "control: a safe twin": result.control}
    for number, (name, values) in enumerate(parts.items(), 2):
        made.add_trace(points(mean(values, result.groups), layers, name, number), row=1, col=2)
    made.add_hline(y=float(result.gap.mean()), line=CONTROL, row=1, col=2)  # type: ignore[arg-type]
    made.update_yaxes(title="nats moved towards the twin", row=1, col=2)
    heading(
        made, "Where safe and unsafe part, and which layer moves the verdict",
        f"{len(result.gap)} pairs that differ in one word; bars 95 %; dotted: the whole difference of the log-odds",
        width=1000, height=480, top=24,
    )  # fmt: skip
    return made


def plot_edits(gradient: EditSearch, chance: EditSearch) -> go.Figure:
    """Share of texts that some edit flips, by gradient and by chance, as the budget grows."""
    made = figure(
        "How often one allowed word flips the verdict",
        f"share of {len(gradient.texts)} requests; every edit verified by a forward pass; band: Wilson 95 %",
        yaxis=dict(title="share flipped", range=[-0.02, 1.02]),
        xaxis=dict(title="edits tried for each request", dtick=max(1, gradient.budget // 12)),
    )  # fmt: skip
    for number, (name, search) in enumerate((("by gradient", gradient), ("by chance", chance))):
        curves = [proportion(search.flipped_within(tries), search.groups) for tries in range(1, search.budget + 1)]
        x = list(range(1, search.budget + 1))
        for trace in curve(x, stacked(curves), name, number, labels=list(map(str, x))):
            made.add_trace(trace)
    return made


def plot_update(result: UpdateComparison) -> go.Figure:
    """Accuracy before and after by category, and what each module's change does on the prompts it was for."""
    names = list(dict.fromkeys(result.categories))
    category = np.array(result.categories)
    made = make_subplots(
        rows=1, cols=2, column_widths=[0.32, 0.68], horizontal_spacing=0.1,
        subplot_titles=["accuracy by category", "target prompts: accuracy with each module's change"],
    )  # fmt: skip
    for number, (name, odds) in enumerate((("before", result.before), ("after", result.after))):
        right = result.right(odds)
        parts = [proportion(right[torch.from_numpy(category == one)], result.groups[category == one]) for one in names]
        made.add_trace(points(stacked(parts), [safe(one) for one in names], name, number), row=1, col=1)
    kept, groups = result.target, result.groups[result.target]
    order = list(result.order)
    labels = [module_name(result.modules[i]) for i in order]
    sets = {
        "this change alone": result.only[:, order],
        "all but this change": result.without[:, order],
        "this and all to the left switched off": result.most_off,
    }
    for number, (name, odds) in enumerate(sets.items(), 2):
        made.add_trace(points(proportion(result.right(odds)[kept], groups), labels, name, number), row=1, col=2)
    for value in (result.before, result.after):
        made.add_hline(y=float(result.right(value)[kept].mean()), line=CONTROL, row=1, col=2)  # type: ignore[arg-type]
    made.update_yaxes(range=[-0.03, 1.05])
    heading(
        made, "What the update changed, and which modules do it",
        f"{int(kept.sum())} target prompts; modules from the most to the least needed, by half of the templates",
        "bars 95 %; dotted: before and after",
        width=max(1000, 460 + 60 * len(labels)), height=520, top=24, scattermode="group",
    )  # fmt: skip
    return made


def module_name(name: str) -> str:
    """A weight's name without what all names share."""
    for part in ("model.", "transformer.", "layers.", "h.", "self_attn.", ".weight", "mlp."):
        name = name.replace(part, "" if part != "layers." else "L")
    return safe(name)


def plot_change_sites(result: UpdateComparison) -> go.Figure:
    """Where attention and representations changed."""
    rows = [f"layer {layer}" for layer in range(result.attention.shape[1])]
    made = make_subplots(
        rows=1, cols=2, subplot_titles=["attention of each head (total variation)", "stream at the verdict"],
        horizontal_spacing=0.14,
    )  # fmt: skip
    found = mean(result.attention, result.groups)
    grid = heat(found.value, [f"head {i}" for i in range(found.value.shape[1])], rows, said=hover(found), limits=(0, 1))
    made.add_trace(grid, row=1, col=1)
    made.update_yaxes(autorange="reversed", row=1, col=1)
    depths = ["embed", *rows]
    values, low, high = result.alignment.numpy().T
    blank = np.full_like(values, np.nan)
    alignment = Estimate(values, low, high, blank, np.full(len(values), len(result.groups.unique())))
    parts = {"1 − cosine": mean(result.representation, result.groups), "CKA": alignment}
    for number, (name, part) in enumerate(parts.items()):
        for trace in curve(range(len(depths)), part, name, number, labels=depths):
            made.add_trace(trace, row=1, col=2)
    made.update_xaxes(tickmode="array", tickvals=list(range(len(depths))), ticktext=depths, row=1, col=2)
    tracks = "; ".join(f"{name} {float(one.value):.2f} [{float(one.low):.2f}, {float(one.high):.2f}]"
                       for name, one in result.tracks().items())  # fmt: skip
    heading(
        made, "Where attention and representations changed",
        f"{len(result.before)} prompts; bands 95 %",
        f"rank correlation with the size of the change of log-odds: {tracks}",
        width=1000, height=440, top=24,
    )  # fmt: skip
    return made
