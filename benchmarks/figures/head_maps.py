"""What the heads of an addition model look at: share of attention on the keys of each job. a: every head, mean over
held-out problems; last row: what uniform attention gives. b: the best head of each job, chosen on one half of the
problems and estimated on the other, with its 95 % interval, beside the best heads of untrained models chosen alike
(stars; bar: where a further untrained model would fall).
"""

from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from benchmarks.figures import paper
from interp.estimates import mean_value
from interp.figures.grids import heat
from interp.figures.judge import points, stacked
from interp.figures.theme import safe
from interp.workflows.selection import learned_head


def figure(reports: Path) -> go.Figure:
    where = ("arithmetic", "arithmetic-add3", "attention")
    trained = paper.load(reports, *where, "head-scores")
    untrained = paper.load_all(reports, *where, "untrained-")
    made = paper.panels(
        ["all heads", "best head of each job and of untrained models"], rows=2, columns=1, height=4.2 * paper.INCH,
        shared_xaxes=True, vertical_spacing=0.07, row_heights=[0.58, 0.42],
    )  # fmt: skip
    values = mean_value(trained.values)
    names = [f"L{layer}H{head}" for layer in trained.layers for head in range(values.shape[1])]
    grid = np.vstack([values.reshape(len(names), -1), mean_value(trained.uniform)])
    jobs = ["<br>".join(safe(name).rsplit(" ", 1)) for name in trained.scores]
    x = list(range(len(jobs)))
    shown = heat(grid, trained.scores, [*names, "uniform"], limits=(0, 1), colorbar="share of attention")
    shown.update(x=x, textfont_size=paper.SMALL, colorbar=dict(len=0.56, lenmode="fraction", y=1, yanchor="top"))
    made.add_trace(shown, row=1, col=1)
    others = f"{len(untrained)} untrained models"
    best = [learned_head(trained, untrained, job) for job in trained.scores]
    paper.add(
        made,
        [
            points(stacked([head.effect for head in best]), [at - 0.12 for at in x], "trained model", 0),
            points(stacked([head.control for head in best]), [at + 0.12 for at in x], others, 6),
        ],
        2, 1,
    )  # fmt: skip
    for at, head in zip(x, best, strict=True):
        top = np.fmax(head.effect.value, head.effect.high)
        made.add_annotation(
            x=at - 0.12, y=top, text=f"L{head.layer}H{head.column}", showarrow=False, yanchor="bottom", row=2, col=1
        )
    made.update_yaxes(autorange="reversed", row=1, col=1)
    made.update_yaxes(title="share of attention", range=[-0.04, 1.03], row=2, col=1)
    made.update_xaxes(tickmode="array", tickvals=x, ticktext=jobs, range=[-0.5, len(jobs) - 0.5])
    return paper.in_print(made, **paper.below(52))


if __name__ == "__main__":
    paper.main(figure)
