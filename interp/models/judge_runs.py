"""A judge run from the streams before its first block: with a baseline in place of words, and with gradients there.

Gradients by a token's embedding need an entry that is not a token. The stream before the first block is one: embedding,
and positions where the architecture adds them there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.models.judge import LOG_ODDS, Judge
from interp.models.run import batch_rows, forward, model_device
from interp.prompts import Prompts
from interp.sites import Site

Baseline = Literal["zero", "mean"] | int
"""What stands for no word: the zero embedding, the mean embedding, or a token (PAD, a neutral word) by its id."""
_LOGITS, _STREAM = Site("logits"), Site("resid_pre", 0)


class EntryRuns:
    """The prompts' streams before the first block, and log-odds and gradients from there."""

    def __init__(self, judge: Judge, prompts: Prompts, memory: int) -> None:
        self.judge, self.prompts = judge, prompts
        # Gradients keep what every layer computed.
        kept = max(4, int(judge.model.cfg.n_layers))
        self.rows = max(1, batch_rows(judge.model, prompts.tokens.shape[1], 1, memory) // kept)
        self.stream = self._embedded(prompts.tokens)
        self.table = judge.model.W_E.detach().float().cpu()
        columns = torch.arange(prompts.tokens.shape[1])
        first, last = prompts.columns("text.first")[:, None], prompts.columns("text.last")[:, None]
        self.inside = (columns >= first) & (columns <= last)

    def start(self, baseline: Baseline) -> tuple[Float[Tensor, "prompt pos d_model"], str]:
        """The streams with the baseline in place of every token of the texts, and its name."""
        if isinstance(baseline, str) and baseline not in ("zero", "mean"):
            raise ConfigError(f"the baseline is 'zero', 'mean' or the id of a token, not {baseline!r}")
        tokens, table = self.prompts.tokens, self.table
        if isinstance(baseline, int):
            if not 0 <= baseline < len(table):
                raise ConfigError(f"the baseline token {baseline} is not in the vocabulary of {len(table)}")
            swapped = self._embedded(torch.full_like(tokens, baseline))
            name = f"token {self.judge.model.tokenizer.decode([baseline])!r}"
        else:
            wanted = torch.zeros_like(table[0]) if baseline == "zero" else table.mean(0)
            swapped, name = self.stream - self.scale * (table[tokens] - wanted), f"{baseline} embedding"
        return torch.where(self.inside[..., None], swapped, self.stream), name

    @property
    def scale(self) -> float:
        """What embeddings are multiplied by on entry; two tokens at one place tell it."""
        tokens = self.prompts.tokens
        other = (tokens + 1) % len(self.table)
        apart, by = self.stream - self._embedded(other), self.table[tokens] - self.table[other]
        return float((apart * by)[self.inside].sum() / by[self.inside].square().sum())

    def score(self, stream: Float[Tensor, "row pos d_model"], rows: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        """Log-odds of unsafe from streams of these prompts."""
        parts = zip(stream.split(self.rows), rows.split(self.rows), strict=True)
        return torch.cat([self._run(part, some, ())[0].cpu() for part, some in parts])

    def gradients(self) -> Float[Tensor, "prompt pos d_model"]:
        """Gradient of the log-odds by the stream at every token."""
        found = torch.zeros_like(self.stream)
        for rows in torch.arange(len(self.prompts)).split(self.rows):
            entry = self._entry(self.stream[rows]).requires_grad_(True)
            (gradient,) = torch.autograd.grad(self._run(entry, rows, (), True)[0].sum(), entry)
            found[rows] = gradient.float().cpu()
        return found

    def shares(
        self,
        start: Float[Tensor, "prompt pos d_model"],
        chosen: Int[Tensor, " row"],
        nodes: np.ndarray,
        weights: np.ndarray,
    ) -> Float[Tensor, "row pos"]:
        """The weighted sum of gradients at the nodes, times the way from the baseline, of the chosen prompts."""
        way = self.stream[chosen] - start[chosen]
        total = torch.zeros_like(way)
        rows = torch.arange(len(chosen)).repeat_interleave(len(nodes))
        along = torch.from_numpy(nodes).float().repeat(len(chosen))
        heavy = torch.from_numpy(weights).float().repeat(len(chosen))
        parts = zip(rows.split(self.rows), along.split(self.rows), heavy.split(self.rows), strict=True)
        for some, alpha, weight in parts:
            entry = self._entry(start[chosen[some]] + alpha[:, None, None] * way[some]).requires_grad_(True)
            (gradient,) = torch.autograd.grad(self._run(entry, chosen[some], (), True)[0].sum(), entry)
            total.index_add_(0, some, gradient.float().cpu() * weight[:, None, None])
        return (total * way).sum(-1).masked_fill(~self.inside[chosen], torch.nan)

    def flow(
        self, start: Float[Tensor, "prompt pos d_model"], steps: int, layers: Sequence[int]
    ) -> Float[Tensor, "prompt layer pos"]:
        """Trapezes of gradient by step of each layer's stream, along `steps` even steps from the baseline.

        The points of all prompts stand in one row of batches, each beginning with the last point of the one before.
        """
        n, points = len(self.prompts), steps + 1
        sites = [Site("resid_post", layer) for layer in layers]
        total = torch.zeros(n, len(sites), start.shape[1])
        before: tuple[Tensor, Tensor] | None = None
        for at in torch.arange(n * points).split(self.rows):
            rows, alpha = at // points, (at % points / steps)[:, None, None]
            entry = self._entry(start[rows] + alpha * (self.stream[rows] - start[rows])).requires_grad_(True)
            odds, kept = self._run(entry, rows, sites, True)
            slopes = torch.stack([one.float().cpu() for one in torch.autograd.grad(odds.sum(), kept)], 1)
            states = torch.stack([one.detach().float().cpu() for one in kept], 1)
            last = states[-1:].clone(), slopes[-1:].clone()
            if before is not None:
                states, slopes = torch.cat([before[0], states]), torch.cat([before[1], slopes])
                at = torch.cat([at[:1] - 1, at])
            trapeze = ((slopes[1:] + slopes[:-1]) / 2 * (states[1:] - states[:-1])).sum(-1)
            same = at[1:] % points > 0  # no step leads from one prompt's last point to the next one's first
            total.index_add_(0, (at // points)[1:][same], trapeze[same])
            before = last
        return total

    def _embedded(self, tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "row pos d_model"]:
        parts = [forward(self.judge.model, some, keep=[_STREAM])[_STREAM] for some in tokens.split(self.rows)]
        return torch.cat(parts).clone().float().cpu()

    def _entry(self, stream: Tensor) -> Tensor:
        return stream.to(model_device(self.judge.model), self.judge.model.cfg.dtype)

    def _run(
        self, stream: Tensor, rows: Int[Tensor, " row"], sites: Sequence[Site], gradients: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Log-odds, and what was kept on the way."""
        prompts = self.prompts
        found = forward(
            self.judge.model, prompts.tokens[rows], keep=[*sites, _LOGITS], reads=prompts.reads[rows],
            residual=self._entry(stream), gradients=gradients,
        )  # fmt: skip
        logits = found[_LOGITS]
        odds = LOG_ODDS.score(logits, self.judge.targets(prompts).take(rows.to(logits.device)))
        return odds, [found[site] for site in sites]
