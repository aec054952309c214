"""Which tokens drove a verdict? Signed shares of the log-odds, with what they leave unexplained.

*Integrated gradients* (Sundararajan et al., arXiv 1703.01365) adds up gradients on the straight line from a baseline to
the prompt, here with Gauss-Legendre nodes; its shares sum to the difference of the log-odds, up to the error that is
reported. *Gradient x input* is its one-point shortcut, *leave one out* (occlusion; Zeiler & Fergus, arXiv 1311.2901)
puts the baseline in one token's place at a time, and sums to nothing in particular. All depend on the baseline: what is
the absence of a word? And a share is not a cause: words that matter only together are split between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.models.judge import LOG_ODDS, Judge
from interp.models.run import MEMORY, batch_rows, forward, model_device
from interp.prompts import Prompts
from interp.sites import Site

Method = Literal["integrated gradients", "gradient x input", "leave one out"]
Baseline = Literal["zero", "mean"] | int
"""What stands for no word: the zero embedding, the mean embedding, or a token (PAD, a neutral word) by its id."""
TOLERANCE = 0.05
"""Largest error of completeness, as a share of the difference of the log-odds, that is not flagged."""
_LOGITS, _STREAM = Site("logits"), Site("resid_pre", 0)


@dataclass(frozen=True, eq=False)
class TokenAttribution:
    """Signed shares of each token of the texts in the log-odds of unsafe."""

    method: Method
    baseline: str
    values: Float[Tensor, "prompt pos"]
    """Nats; above 0 towards unsafe. nan outside of the text: the template is no word of the prompt."""
    score: Float[Tensor, " prompt"]
    """Log-odds of unsafe."""
    baseline_score: Float[Tensor, " prompt"]
    """The same with the baseline in place of every word."""
    steps: Int[Tensor, " prompt"]
    """Points on the line at which gradients were taken; 0 for leave one out."""
    groups: Int[Tensor, " prompt"]

    @property
    def error(self) -> Float[Tensor, " prompt"]:
        """What the shares lack of the difference of the log-odds, as a share of it."""
        apart = self.score - self.baseline_score
        return (self.values.nansum(1) - apart).abs() / apart.abs()

    @property
    def flagged(self) -> Bool[Tensor, " prompt"]:
        """Prompts whose shares do not add up to within `TOLERANCE`."""
        return ~(self.error <= TOLERANCE)

    def to_frame(self) -> pd.DataFrame:
        """One row for each token of a text."""
        prompt, column = (~self.values.isnan()).nonzero(as_tuple=True)
        return pd.DataFrame(
            {"prompt": prompt.numpy(), "column": column.numpy(), "value": self.values[prompt, column].numpy()}
        )


def token_attribution(
    judge: Judge,
    prompts: Prompts,
    *,
    method: Method = "integrated gradients",
    baseline: Baseline = "mean",
    steps: int = 32,
    most_steps: int = 512,
    memory: int = MEMORY,
) -> TokenAttribution:
    """Attribute the log-odds to the tokens of texts that `judge.prompts` made.

    Integrated gradients begin with `steps` points; prompts whose shares miss the difference by more than 5 % are done
    again with twice as many, up to `most_steps`, and flagged where that does not help.
    """
    if method not in ("integrated gradients", "gradient x input", "leave one out"):
        raise ConfigError(f"there is no method {method!r} of token attribution")
    if steps < 1 or most_steps < steps:
        raise ConfigError(f"steps must be at least 1 and at most most_steps, not {steps} and {most_steps}")
    if isinstance(baseline, str) and baseline not in ("zero", "mean"):
        raise ConfigError(f"the baseline is 'zero', 'mean' or the id of a token, not {baseline!r}")
    run = _Run(judge, prompts, memory)
    start, name = run.start(baseline)
    n = len(prompts)
    score, empty = run.score(run.stream, torch.arange(n)), run.score(start, torch.arange(n))
    values = torch.full(run.inside.shape, torch.nan)
    taken = torch.zeros(n, dtype=torch.long)
    if method == "leave one out":
        rows, columns = run.inside.nonzero(as_tuple=True)
        left = run.stream[rows].clone()
        left[torch.arange(len(rows)), columns] = start[rows, columns]
        values[rows, columns] = score[rows] - run.score(left, rows)
    elif method == "gradient x input":
        values = run.shares(start, torch.arange(n), np.array([1.0]), np.array([1.0]))
        taken += 1
    else:
        todo, count = torch.arange(n), steps
        while True:
            nodes, weights = np.polynomial.legendre.leggauss(count)
            values[todo] = run.shares(start, todo, (nodes + 1) / 2, weights / 2)
            taken[todo] = count
            apart = score[todo] - empty[todo]
            off = (values[todo].nansum(1) - apart).abs() > TOLERANCE * apart.abs()
            todo, count = todo[off], 2 * count
            if not len(todo) or count > most_steps:
                break
    return TokenAttribution(method, name, values, score, empty, taken, prompts.groups)


class _Run:
    """The prompts' streams before the first block, and scores and gradients from there."""

    def __init__(self, judge: Judge, prompts: Prompts, memory: int) -> None:
        self.judge, self.prompts = judge, prompts
        self.rows = max(1, batch_rows(judge.model, prompts.tokens.shape[1], 1, memory) // 4)
        self.stream = self._embedded(prompts.tokens)
        columns = torch.arange(prompts.tokens.shape[1])
        first, last = prompts.columns("text.first")[:, None], prompts.columns("text.last")[:, None]
        self.inside = (columns >= first) & (columns <= last)

    def _embedded(self, tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "row pos d_model"]:
        parts = [forward(self.judge.model, some, keep=[_STREAM])[_STREAM] for some in tokens.split(self.rows)]
        return torch.cat(parts).clone().float().cpu()

    def start(self, baseline: Baseline) -> tuple[Float[Tensor, "prompt pos d_model"], str]:
        """The streams with the baseline in place of every token of the texts, and its name."""
        tokens = self.prompts.tokens
        table = self.judge.model.W_E.detach().float().cpu()
        if isinstance(baseline, int):
            if not 0 <= baseline < len(table):
                raise ConfigError(f"the baseline token {baseline} is not in the vocabulary of {len(table)}")
            swapped = self._embedded(torch.full_like(tokens, baseline))
            name = f"token {self.judge.model.tokenizer.decode([baseline])!r}"
        else:
            # Embeddings may be scaled and have positions added: two tokens at one place tell the scale.
            other = (tokens + 1) % len(table)
            apart, by = self.stream - self._embedded(other), table[tokens] - table[other]
            scale = float((apart * by)[self.inside].sum() / by[self.inside].square().sum())
            wanted = torch.zeros_like(table[0]) if baseline == "zero" else table.mean(0)
            swapped, name = self.stream - scale * (table[tokens] - wanted), f"{baseline} embedding"
        return torch.where(self.inside[..., None], swapped, self.stream), name

    def score(self, stream: Float[Tensor, "row pos d_model"], rows: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        """Log-odds of unsafe from streams of these prompts."""
        parts = zip(stream.split(self.rows), rows.split(self.rows), strict=True)
        return torch.cat([self._log_odds(part, some, False).cpu() for part, some in parts])

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
            entry = start[chosen[some]] + alpha[:, None, None] * way[some]
            entry = entry.to(model_device(self.judge.model), self.judge.model.cfg.dtype).requires_grad_(True)
            found = self._log_odds(entry, chosen[some], True)
            (gradient,) = torch.autograd.grad(found.sum(), entry)
            total.index_add_(0, some, gradient.float().cpu() * weight[:, None, None])
        return (total * way).sum(-1).masked_fill(~self.inside[chosen], torch.nan)

    def _log_odds(self, stream: Tensor, rows: Int[Tensor, " row"], gradients: bool) -> Float[Tensor, " row"]:
        model, prompts = self.judge.model, self.prompts
        entry = stream.to(model_device(model), model.cfg.dtype)
        logits = forward(
            model, prompts.tokens[rows], keep=[_LOGITS], reads=prompts.reads[rows], residual=entry, gradients=gradients
        )[_LOGITS]
        return LOG_ODDS.score(logits, self.judge.targets(prompts).take(rows.to(logits.device)))
