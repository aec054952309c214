"""Results to pictures. `plot(result)` gives a plotly figure and neither shows nor writes it."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import plotly.graph_objects as go

from interp.analyses.ablation import Ablation, StepAblation
from interp.analyses.attention import AttentionStatistics
from interp.analyses.attribution import LogitAttribution
from interp.analyses.circuits import CumulativeAblation
from interp.analyses.heads import HeadScores
from interp.analyses.logit_lens import LogitLens
from interp.analyses.patching import Patching
from interp.analyses.probing import Probing
from interp.analyses.selectivity import Selectivity
from interp.analyses.steering import DirectionTest
from interp.analyses.weights import Composition
from interp.errors import ConfigError
from interp.figures.attention import attention_html, plot_head, plot_heads_of_layer
from interp.figures.circuits import plot_discovery, plot_selectivity, plot_steps
from interp.figures.comparison import plot_comparison
from interp.figures.curves import (
    plot_cumulative,
    plot_entropy,
    plot_logit_lens,
    plot_prediction_evolution,
    plot_predictions_per_layer,
    plot_probing,
)
from interp.figures.grids import plot_attention_statistics, plot_head_scores, plot_patching
from interp.figures.parts import plot_ablation, plot_attribution, plot_composition, plot_direction_test
from interp.workflows.comparison import Comparison
from interp.workflows.discovery import Discovery

__all__ = [
    "attention_html",
    "plot",
    "plot_entropy",
    "plot_head",
    "plot_heads_of_layer",
    "plot_prediction_evolution",
    "plot_predictions_per_layer",
]


@singledispatch
def plot(result: Any) -> go.Figure:
    """A plotly figure of a result, over all its prompts."""
    raise ConfigError(f"there is no figure for {type(result).__name__}")


plot.register(Patching, plot_patching)
plot.register(HeadScores, plot_head_scores)
plot.register(AttentionStatistics, plot_attention_statistics)
plot.register(LogitLens, plot_logit_lens)
plot.register(Ablation, plot_ablation)
plot.register(CumulativeAblation, plot_cumulative)
plot.register(LogitAttribution, plot_attribution)
plot.register(Probing, plot_probing)
plot.register(Composition, plot_composition)
plot.register(StepAblation, plot_steps)
plot.register(Selectivity, plot_selectivity)
plot.register(Discovery, plot_discovery)
plot.register(DirectionTest, plot_direction_test)
plot.register(Comparison, plot_comparison)
