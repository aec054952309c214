"""Through which layer and token does the verdict flow? Integrated gradients cut open after each layer.

Conductance (Dhamdhere et al., arXiv 1805.12233) follows the straight line from a baseline to the prompt and adds up
gradients by a layer's stream times the stream's steps. At every layer the shares sum to the difference of the log-odds;
what moves between layers is at which token they stand. As with integrated gradients, a share is not a cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.models.judge import Judge
from interp.models.judge_runs import Baseline, EntryRuns
from interp.models.run import MEMORY
from interp.prompts import Prompts
from interp.results import grid_frame
from interp.sites import every


@dataclass(frozen=True, eq=False)
class Conductance:
    """Signed shares of every token's stream after every layer."""

    baseline: str
    layers: tuple[int, ...]
    values: Float[Tensor, "prompt layer pos"]
    """Nats of the log-odds of unsafe; nan at padding."""
    score: Float[Tensor, " prompt"]
    baseline_score: Float[Tensor, " prompt"]
    steps: int
    groups: Int[Tensor, " prompt"]

    @property
    def error(self) -> Float[Tensor, "prompt layer"]:
        """What a layer's shares lack of the difference of the log-odds, as a share of it."""
        apart = (self.score - self.baseline_score)[:, None]
        return (self.values.nansum(2) - apart).abs() / apart.abs()

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt, layer and token."""
        frame = grid_frame({"layer": self.layers, "column": range(self.values.shape[2])}, value=self.values)
        return frame[frame["value"].notna()].reset_index(drop=True)


def conductance(
    judge: Judge,
    prompts: Prompts,
    *,
    layers: Sequence[int] | None = None,
    baseline: Baseline = "mean",
    steps: int = 64,
    memory: int = MEMORY,
) -> Conductance:
    """Split the log-odds over tokens after each layer (by default all), with `steps` trapezes on the line."""
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, not {steps}")
    known = int(judge.model.cfg.n_layers)
    chosen = [site.layer for site in every(["resid_post"], known, layers)]
    run = EntryRuns(judge, prompts, memory)
    start, name = run.start(baseline)
    n = len(prompts)
    values = run.flow(start, steps, chosen).masked_fill(~prompts.mask[:, None], torch.nan)
    score, empty = run.score(run.stream, torch.arange(n)), run.score(start, torch.arange(n))
    return Conductance(name, tuple(chosen), values, score, empty, steps, prompts.groups)
