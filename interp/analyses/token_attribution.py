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
from interp.models.judge import Judge
from interp.models.judge_runs import Baseline, EntryRuns
from interp.models.run import MEMORY
from interp.prompts import Prompts

Method = Literal["integrated gradients", "gradient x input", "leave one out"]
TOLERANCE = 0.05
"""Largest error of completeness, as a share of the difference of the log-odds, that is not flagged."""


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
    run = EntryRuns(judge, prompts, memory)
    start, name = run.start(baseline)
    n = len(prompts)
    score, empty = run.score(run.stream, torch.arange(n)), run.score(start, torch.arange(n))
    values = torch.full(run.inside.shape, torch.nan)
    taken = torch.zeros(n, dtype=torch.long)
    if method == "leave one out":
        for rows, columns in zip(*(part.split(run.rows) for part in run.inside.nonzero(as_tuple=True)), strict=True):
            left = run.stream[rows]
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
