"""How widely, how far and at what do heads look? Entropy, distance and attention to the first token.

Attention weights say what a head reads, not what that does to the output (Jain & Wallace, arXiv 1902.10186): a causal
analysis must stand beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.prompts import Position, Prompts
from interp.results import grid_frame
from interp.tensors import Activations


@dataclass(frozen=True, eq=False)
class AttentionStatistics:
    """Means over the queries of each prompt, beside what uniform attention over the allowed keys would give."""

    layers: tuple[int, ...]
    entropy: Float[Tensor, "prompt layer head"]
    """Nats; 0 is all weight on one key."""
    distance: Float[Tensor, "prompt layer head"]
    """Mean number of tokens back, weighted by attention."""
    first: Float[Tensor, "prompt layer head"]
    """Share of attention on the first token, often a resting place without meaning."""
    uniform_entropy: Float[Tensor, " prompt"]
    uniform_distance: Float[Tensor, " prompt"]
    uniform_first: Float[Tensor, " prompt"]
    groups: Int[Tensor, " prompt"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt, layer and head."""
        axes = {"layer": self.layers, "head": range(self.entropy.shape[2])}
        frame = grid_frame(axes, entropy=self.entropy, distance=self.distance, first=self.first)
        for name in ("uniform_entropy", "uniform_distance", "uniform_first"):
            frame[name] = getattr(self, name)[torch.tensor(frame["prompt"].to_numpy())].numpy()
        return frame


@dataclass(frozen=True, eq=False)
class AttentionPatterns:
    """Attention of single prompts, to be looked at one by one."""

    layers: tuple[int, ...]
    patterns: Float[Tensor, "prompt layer head query key"]
    """Rows sum to 1; nan beyond a prompt's end."""
    tokens: tuple[tuple[str, ...], ...]
    """Text of each prompt's tokens."""


def attention_patterns(activations: Activations, tokenizer: Any = None) -> AttentionPatterns:
    """The captured patterns with the text of their tokens (their ids where there is no tokenizer)."""
    prompts = activations.prompts
    texts = []
    for row, length in zip(prompts.tokens.tolist(), prompts.lengths.tolist(), strict=True):
        texts.append(tuple(str(tokenizer.decode([i])) if tokenizer else str(i) for i in row[:length]))
    layers = tuple(activations.layers("pattern"))
    return AttentionPatterns(layers, activations.stack("pattern").float().cpu(), tuple(texts))


def attention_statistics(activations: Activations, *, at: Sequence[Position] | None = None) -> AttentionStatistics:
    """Attention statistics of every captured head, averaged over each prompt's queries.

    `at` names the queries (roles or indices); by default all but the first, which can only look at itself. A prompt
    without any of them is nan. Needs `pattern` in the activations. Uniform attention is over all keys up to the query,
    which a layer with a sliding window cannot all see.
    """
    layers = tuple(activations.layers("pattern")) or (0,)
    queries = _queries(activations.prompts, at)
    keys = torch.arange(queries.shape[1])
    allowed = (keys[None, :] <= keys[:, None]).float()
    back = (keys[:, None] - keys[None, :]).clamp(min=0).float()
    entropy, distance, first = [], [], []
    for layer in layers:
        pattern = activations["pattern", layer].float().cpu().nan_to_num()
        entropy.append(_over_queries(torch.special.entr(pattern).sum(-1), queries))
        distance.append(_over_queries((pattern * back).sum(-1), queries))
        first.append(_over_queries(pattern[..., 0], queries))
    uniform = (allowed / allowed.sum(1, keepdim=True)).expand(len(queries), 1, -1, -1)
    return AttentionStatistics(
        layers,
        torch.stack(entropy, 1),
        torch.stack(distance, 1),
        torch.stack(first, 1),
        _over_queries(torch.special.entr(uniform).sum(-1), queries)[:, 0],
        _over_queries((uniform * back).sum(-1), queries)[:, 0],
        _over_queries(uniform[..., 0], queries)[:, 0],
        activations.prompts.groups,
    )


def _queries(prompts: Prompts, at: Sequence[Position] | None) -> Bool[Tensor, "prompt query"]:
    if at is None:
        later = prompts.mask.clone()
        later[:, 0] = False
        return later
    columns = prompts.table(at)
    chosen = torch.zeros(prompts.tokens.shape, dtype=torch.bool)
    present = columns >= 0
    chosen[present.nonzero()[:, 0], columns[present]] = True
    return chosen


def _over_queries(
    values: Float[Tensor, "prompt head query"], queries: Bool[Tensor, "prompt query"]
) -> Float[Tensor, "prompt head"]:
    """Mean over the chosen queries; nan where a prompt has none."""
    weight = queries[:, None].float()
    return (values * weight).sum(-1) / weight.sum(-1)
