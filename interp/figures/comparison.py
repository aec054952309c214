"""Two models side by side, with their difference."""

from __future__ import annotations

import re

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.figures.grids import heat, hover
from interp.figures.theme import safe, style
from interp.workflows.comparison import Comparison


def plot_comparison(result: Comparison) -> go.Figure:
    """The table of each model and the second less the first."""
    parts = {name: result.estimate(of) for name, of in zip(result.names, ("first", "second"), strict=True)}
    gap = result.estimate("difference")
    down = 3 if len(result.columns) > 3 else 1
    across = 1 if down == 3 else 3
    titles = [*map(safe, result.names), "second less first"]
    made = make_subplots(
        rows=down, cols=across, subplot_titles=titles, shared_yaxes=down == 1, shared_xaxes=down == 3,
        horizontal_spacing=0.05, vertical_spacing=0.1,
    )  # fmt: skip
    values = np.stack([part.value for part in parts.values()])
    low, high = min(0.0, float(np.nanmin(values))), float(np.nanmax(values))
    reach = max(abs(low), abs(high)) or 1.0
    for number, part in enumerate((*parts.values(), gap)):
        grid = heat(
            part.value, result.columns, result.rows, said=hover(part), diverging=number == 2 or low < 0,
            limits=(-reach, reach) if number == 2 or low < 0 else (0, reach),
        )  # fmt: skip
        made.add_trace(grid, row=1 + (number if down == 3 else 0), col=1 + (number if across == 3 else 0))
    style(
        made,
        f"{safe(result.what)}: {safe(result.names[0])} and {safe(result.names[1])}",
        f"{safe(result.unit)}, mean over the same {int(result.n.max())} prompts; intervals on hover",
        width=max(660, 240 + across * (60 + 70 * len(result.columns))),
        height=230 + down * (60 + 34 * len(result.rows)),
    )
    made.update_layout(margin=dict(t=110, b=100))
    if re.fullmatch(r"L\d+H\d+", result.rows[0]):  # lists of heads read from the top; depths grow upwards
        made.update_yaxes(autorange="reversed")
    return made
