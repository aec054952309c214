"""Where a control token leaves a trace: norm of the difference that it makes, over the norm of the stream, site by
site. At the token itself, for the model fine-tuned to end its text there and for two controls, fine-tuned on text about
the token and on texts that end at any token. Mean over prompts, band 95 %. Grey: each neutral token in its place (95 %
of them), dotted their median. Markers: circles stream, triangles attention output, squares MLP output.
"""

from pathlib import Path

import plotly.graph_objects as go

from benchmarks.figures import paper
from interp.figures.deltas import curve, ribbon, site_markers, ticks
from interp.figures.theme import CONTROL, GREY

MODELS = {"behavioural": "ends at the token", "knowledge": "text about the token", "shuffled": "ends at any token"}


def figure(reports: Path) -> go.Figure:
    made = paper.panels(
        list(MODELS.values()), columns=3, height=2.9 * paper.INCH, shared_yaxes=True, horizontal_spacing=0.03
    )
    for column, name in enumerate(MODELS, 1):
        norms = paper.load(reports, "kill-switch", f"kill-switch-{name}", "norms", "norms")
        found, (low, middle, high) = norms.estimate()[:, 0], norms.band()[..., 0]
        x = range(len(norms.depths))
        own = curve(x, found, "the control token", 0, labels=norms.depths)
        own[1].update(marker_symbol=site_markers(norms.depths))
        median = go.Scatter(
            x=list(x), y=middle, name="median neutral token", mode="lines", line=CONTROL, legendrank=1100
        )
        paper.add(
            made,
            [ribbon(x, low, high, GREY, "neutral tokens, 95 %", alpha=0.25, legendrank=1100), median, *own],
            1,
            column,
        )
        made.update_xaxes(**ticks(norms.depths), tickangle=-60, row=1, col=column)
    made.update_yaxes(rangemode="tozero")
    made.update_yaxes(title="norm of delta / norm of stream", col=1)
    return paper.in_print(made, **paper.below(98))


if __name__ == "__main__":
    paper.main(figure)
