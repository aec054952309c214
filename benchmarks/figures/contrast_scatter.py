"""Which features tell harmful requests from safe ones with the same alarming words: mean of the largest activations on
harmful requests beside that on their safe contrasts. On the dotted line a feature is the same on both. Triples that had
no part in the choice, all categories; confirmed is what differs from the safe contrasts and from the benign acts, at
least by a fifth, corrected for all that were discovered (max-T). A confirmed feature goes with harm on these requests;
whether the refusal needs it, only an intervention tells.
"""

from pathlib import Path

import plotly.graph_objects as go

from benchmarks.figures import paper
from interp.figures.features import plot_feature_contrast


def figure(reports: Path) -> go.Figure:
    made = plot_feature_contrast(paper.load(reports, "safety-circuits", "safety-chat", "contrast", "all"))
    made.update_xaxes(title="mean activation, safe contrasts")
    made.update_yaxes(title="mean activation, harmful requests", scaleanchor="x", constrain="domain")
    made.update_layout(width=paper.COLUMN, height=1.25 * paper.COLUMN)
    made = paper.in_print(made, **paper.below(112))
    return made.update_layout(margin=dict(l=44, r=8, t=8))


if __name__ == "__main__":
    paper.main(figure)
