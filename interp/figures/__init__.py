"""Results to pictures. `plot(result)` gives a plotly figure and neither shows nor writes it."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import plotly.graph_objects as go

from interp.analyses.ablation import Ablation, StepAblation
from interp.analyses.attention import AttentionStatistics
from interp.analyses.attribution import LogitAttribution
from interp.analyses.attribution_patching import AttributionPatching
from interp.analyses.circuits import CumulativeAblation
from interp.analyses.delta_lens import DeltaLens
from interp.analyses.delta_rank import DeltaRank
from interp.analyses.deltas import DeltaNorms
from interp.analyses.diffing import DifferenceLens
from interp.analyses.edge_attribution import EdgeAttribution
from interp.analyses.edge_circuits import CircuitCurve, EdgeCircuit
from interp.analyses.halting import CausalGrid, Dose, Halting, SideEffects, Transfer
from interp.analyses.heads import HeadScores
from interp.analyses.logit_lens import LogitLens
from interp.analyses.patching import Patching
from interp.analyses.probing import Probing
from interp.analyses.selectivity import Selectivity
from interp.analyses.separation import Separation
from interp.analyses.steering import DirectionTest
from interp.analyses.verdicts import Verdicts
from interp.analyses.weight_changes import WeightChanges
from interp.analyses.weights import Composition
from interp.circuits.feature_causal import Intervention
from interp.circuits.feature_contrast import FeatureContrast
from interp.circuits.motif_contrast import MotifContrast
from interp.circuits.triads import TriadNull
from interp.circuits.usage import Usage
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
from interp.figures.deltas import plot_cumulative_variance, plot_delta_lens, plot_delta_norms, plot_direct_effect
from interp.figures.diffing import plot_difference_lens, plot_weight_changes
from interp.figures.edge_circuits import plot_edge_circuit, plot_pruning
from interp.figures.edges import (
    plot_attribution_patching,
    plot_circuit_curve,
    plot_edge_attribution,
    plot_verified,
)
from interp.figures.features import (
    plot_feature_contrast,
    plot_intervention,
    plot_motif_contrast,
    plot_triads,
    plot_usage,
)
from interp.figures.grids import plot_attention_statistics, plot_head_scores, plot_patching
from interp.figures.halting import (
    plot_along_training,
    plot_causal_grid,
    plot_dose,
    plot_halting,
    plot_side_effects,
    plot_transfer,
)
from interp.figures.judge import plot_judge_heads, plot_paths, plot_separation, plot_update, plot_verdicts
from interp.figures.parts import plot_ablation, plot_attribution, plot_composition, plot_direction_test
from interp.workflows.checkpoints import AlongTraining
from interp.workflows.comparison import Comparison
from interp.workflows.direct_effect import DirectEffect
from interp.workflows.discovery import Discovery
from interp.workflows.judge_heads import JudgeHeads
from interp.workflows.paths import SafeUnsafePaths
from interp.workflows.pruning import Pruning
from interp.workflows.update import UpdateComparison
from interp.workflows.verified import Verified

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
plot.register(DeltaNorms, plot_delta_norms)
plot.register(DeltaRank, plot_cumulative_variance)
plot.register(DeltaLens, plot_delta_lens)
plot.register(DirectEffect, plot_direct_effect)
plot.register(CausalGrid, plot_causal_grid)
plot.register(Dose, plot_dose)
plot.register(Halting, plot_halting)
plot.register(SideEffects, plot_side_effects)
plot.register(Transfer, plot_transfer)
plot.register(AlongTraining, plot_along_training)
plot.register(DifferenceLens, plot_difference_lens)
plot.register(WeightChanges, plot_weight_changes)
plot.register(Verdicts, plot_verdicts)
plot.register(JudgeHeads, plot_judge_heads)
plot.register(Separation, plot_separation)
plot.register(SafeUnsafePaths, plot_paths)
plot.register(UpdateComparison, plot_update)
plot.register(AttributionPatching, plot_attribution_patching)
plot.register(EdgeAttribution, plot_edge_attribution)
plot.register(CircuitCurve, plot_circuit_curve)
plot.register(EdgeCircuit, plot_edge_circuit)
plot.register(Pruning, plot_pruning)
plot.register(Verified, plot_verified)
plot.register(Usage, plot_usage)
plot.register(FeatureContrast, plot_feature_contrast)
plot.register(Intervention, plot_intervention)
plot.register(MotifContrast, plot_motif_contrast)
plot.register(TriadNull, plot_triads)
