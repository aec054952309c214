"""Which figures each step of a study shows, and what is written beneath them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from interp.analyses.attention import AttentionPatterns
from interp.analyses.heads import HeadScores
from interp.analyses.patching import Patching
from interp.errors import ConfigError, PromptError
from interp.figures import (
    attention_html,
    plot,
    plot_entropy,
    plot_head,
    plot_heads_of_layer,
    plot_prediction_evolution,
    plot_predictions_per_layer,
)
from interp.figures.grids import plot_attention_statistics, plot_learned_heads, plot_patching_of_pair
from interp.studies.study import Picture, Results
from interp.workflows.selection import best_head


def kept_scores(own: HeadScores, others: Sequence[HeadScores]) -> Results:
    """Head scores of the model and of untrained ones, as a step's results."""
    return {"head-scores": own, **{f"untrained-{seed}": other for seed, other in enumerate(others)}}


def untrained_scores(found: Results) -> list[HeadScores]:
    """Head scores of the untrained models among a step's results."""
    return [found[f"untrained-{i}"] for i in range(sum(name.startswith("untrained-") for name in found))]


def attention_pictures(found: Results, layers: Sequence[int], wanted: Sequence[tuple[int, int]]) -> list[Picture]:
    """Scores and statistics over all prompts; for each example every head of a layer, single heads, statistics."""
    scores: HeadScores = found["head-scores"]
    pictures = [
        Picture(
            "head-scores",
            "Every head's attention on the keys of each job, beside uniform attention and untrained heads.",
            lambda: plot_learned_heads(scores, untrained_scores(found)),
            headline=True,
        ),
        Picture("statistics", "How widely, how far and at what every head looks.", lambda: plot(found["statistics"])),
    ]
    if "examples" not in found:
        return pictures
    examples: AttentionPatterns = found["examples"]
    heads = list(wanted) or _best_of(scores)
    for number, tokens in enumerate(examples.tokens):
        text = "".join(tokens)
        for layer in layers:
            pictures.append(
                Picture(
                    f"example-{number}-layer-{layer}-heads",
                    f"Every head of layer {layer} on {text}.",
                    lambda n=number, at=layer: plot_heads_of_layer(examples, at, n),
                )
            )
        for layer, head in heads:
            pictures.append(
                Picture(
                    f"example-{number}-L{layer}H{head}",
                    f"Head L{layer}H{head} on {text}.",
                    lambda n=number, at=layer, h=head: plot_head(examples, at, h, n),
                    headline=number == 0,
                )
            )
        pictures.append(
            Picture(
                f"example-{number}-statistics",
                f"Attention statistics of every head on {text}.",
                lambda n=number: plot_attention_statistics(found["examples-statistics"], n),
            )
        )
    return pictures


def _best_of(scores: HeadScores) -> list[tuple[int, int]]:
    """The best head of the first of the telling jobs that any head has."""
    for job in ("own column", "induction", "previous token"):
        try:
            return [best_head(scores, job)[:2]]
        except (ConfigError, PromptError):
            continue
    return []


def attention_pages(found: Results, layers: Sequence[int]) -> dict[str, str]:
    """A circuitsvis page for each layer, on the first example."""
    if "examples" not in found:
        return {}
    return {f"example-0-layer-{layer}-circuitsvis": attention_html(found["examples"], layer, 0) for layer in layers}


def lens_pictures(found: Results) -> list[Picture]:
    """The lens over all prompts; for each example its evolution, its likeliest tokens and its entropy."""
    pictures = []
    if len(found["prompts"].texts) > 1:
        pictures.append(
            Picture(
                "answers-by-depth",
                "How often each answer token is on top at each depth, beside another prompt's answer.",
                lambda: plot(found["prompts"]),
                headline=True,
            )
        )
    if "examples" not in found:
        return pictures
    lens = found["examples"]
    for number, text in enumerate(lens.texts):
        for name, caption, draw in (
            ("evolution", "Top token at each depth and position", plot_prediction_evolution),
            ("predictions", "Likeliest tokens per layer", plot_predictions_per_layer),
            ("entropy", "Entropy by depth", plot_entropy),
        ):
            pictures.append(
                Picture(
                    f"example-{number}-{name}",
                    f"{caption}: {text}.",
                    lambda n=number, d=draw: d(lens, n),
                    headline=number == 0 and name == "evolution",
                )
            )
    return pictures


def patching_pictures(found: Results, labels: Mapping[str, tuple[str, str, list[str]]]) -> list[Picture]:
    """A grid for every site and kind of pair; for each example the raw metric by layer and token."""
    pictures = []
    kinds = {name.split(".")[0] for name in found}
    telling = {"carry", "operator", "pairs"} & kinds or kinds
    for name, result in found.items():
        if name.startswith("example-"):
            continue
        kind = name.split(".")[0]
        pictures.append(
            Picture(
                name.replace(".", "-"),
                f"Pairs that differ in one {kind}: {result.site}, {result.direction}, {result.metric}.",
                lambda r=result, k=kind: _titled(r, k),
                headline=kind in telling and result.site in ("resid_pre", "z") and not name.endswith("by-place"),
            )
        )
    for name, (clean, corrupted, tokens) in labels.items():
        if name in found:
            pictures.append(
                Picture(
                    name.replace(".", "-"),
                    f"{clean} patched into {corrupted}: raw metric by layer and token.",
                    lambda r=found[name], c=clean, d=corrupted, t=tokens: plot_patching_of_pair(r, c, d, t),
                )
            )
    return pictures


def _titled(result: Patching, kind: str) -> go.Figure:
    made: Any = plot(result)
    made.update_layout(title_text=f"{kind}: {made.layout.title.text}")
    return made
