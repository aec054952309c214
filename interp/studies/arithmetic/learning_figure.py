"""The curves of what was learned when."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.figures.curves import band
from interp.figures.theme import figure
from interp.studies.arithmetic.learning import CARRY_IN, Learning


def plot_learning(result: Learning, operator: str) -> go.Figure:
    """Share of an operator's digits that are right at each evaluation, by sub-task and place, with Wilson bands."""
    kinds = ("sum", *CARRY_IN) if operator in "+-" else ("all",)
    shown = [
        name for name in result.digits
        if name[0] == operator and name[2:].split(".")[0] in kinds and not name.endswith(".ones")
    ]  # fmt: skip
    made = figure(
        "What was learned when",
        f"share of validation digits of {operator} that are right, by sub-task and place; sum: right up to the carry; "
        "bands 95 %",
        height=480,
        width=860,
        yaxis=dict(title="share right", range=[-0.03, 1.03]),
        xaxis=dict(title="training step", type="log"),
    )
    for number, name in enumerate(shown):
        band(made, [str(step) for step in result.steps], result.share(name), name[2:], number)
    return made
