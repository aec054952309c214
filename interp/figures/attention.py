"""Attention patterns of single prompts: plotly for pages, circuitsvis for looking around."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.analyses.attention import AttentionPatterns
from interp.errors import ConfigError
from interp.figures.theme import SEQUENTIAL, safe, style


def _pattern(result: AttentionPatterns, layer: int, prompt: int) -> Any:
    if layer not in result.layers:
        raise ConfigError(f"layer {layer} was not captured; there are {list(result.layers)}")
    n = len(result.tokens[prompt])
    return result.patterns[prompt, result.layers.index(layer), :, :n, :n]


def _labels(tokens: Sequence[str]) -> list[str]:
    """Unique axis labels, since plotly merges equal categories; the position follows the token."""
    return [f"{safe(token)} <sub>{i}</sub>" for i, token in enumerate(tokens)]


def plot_heads_of_layer(result: AttentionPatterns, layer: int, prompt: int) -> go.Figure:
    """The attention pattern of every head of a layer, for one prompt."""
    pattern, tokens = _pattern(result, layer, prompt), result.tokens[prompt]
    n_heads = len(pattern)
    across = min(4, n_heads)
    down = -(-n_heads // across)
    titles = [f"head {h}" for h in range(n_heads)]
    made = make_subplots(
        rows=down, cols=across, subplot_titles=titles, shared_xaxes=True, shared_yaxes=True,
        horizontal_spacing=0.03, vertical_spacing=0.12 / down,
    )  # fmt: skip
    for head in range(n_heads):
        row, column = divmod(head, across)
        made.add_trace(_map(pattern[head], tokens, head == 0), row=row + 1, col=column + 1)
    made.update_yaxes(autorange="reversed", type="category")
    made.update_xaxes(type="category")
    style(
        made,
        f"Attention of every head in layer {layer}: {safe(''.join(tokens))}",
        "rows look (queries), columns are looked at (keys); each row sums to 1",
        width=140 + 230 * across,
        height=190 + 230 * down,
    )
    made.update_layout(margin=dict(t=110))
    return made


def plot_head(result: AttentionPatterns, layer: int, head: int, prompt: int) -> go.Figure:
    """The attention pattern of one head, for one prompt."""
    pattern, tokens = _pattern(result, layer, prompt), result.tokens[prompt]
    if not 0 <= head < len(pattern):
        raise ConfigError(f"there is no head {head}: layer {layer} has heads 0 to {len(pattern) - 1}")
    made = go.Figure(_map(pattern[head], tokens, True))
    made.update_yaxes(autorange="reversed", type="category", title="query")
    made.update_xaxes(type="category", title="key")
    style(
        made,
        f"Attention of head L{layer}H{head}: {safe(''.join(tokens))}",
        "rows look (queries), columns are looked at (keys); each row sums to 1",
        width=560,
        height=540,
    )
    return made


def _map(pattern: Any, tokens: Sequence[str], scale: bool) -> go.Heatmap:
    names = _labels(tokens)
    return go.Heatmap(
        z=pattern.numpy(), x=names, y=names, zmin=0, zmax=1, colorscale=SEQUENTIAL, showscale=scale,
        colorbar=dict(title=dict(text="attention", side="right"), thickness=12),
        hovertemplate="%{y} looks at %{x}: %{z:.3f}<extra></extra>",
    )  # fmt: skip


def attention_html(result: AttentionPatterns, layer: int, prompt: int) -> str:
    """A circuitsvis view of a layer's heads as a self-contained page fragment (about 1.3 MB, no request)."""
    from circuitsvis.attention import attention_heads

    pattern = _pattern(result, layer, prompt)
    # circuitsvis treats tokens as HTML: a token like <bos> would vanish and one like </script> would run.
    shown = [html.escape(token) for token in result.tokens[prompt]]
    return attention_heads(
        tokens=shown,
        attention=pattern,
        attention_head_names=[f"L{layer}H{h}" for h in range(len(pattern))],
    ).local_src
