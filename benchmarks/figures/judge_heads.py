"""Heads of a safety judge asked three ways: what they look at, what they write, and what is lost without them. a:
attention from the verdict on the words that decide, beyond uniform attention. b: direct contribution to the log-odds of
unsafe, unsafe less safe requests. c: fall of the log-odds when the head is ablated, unsafe less safe. Error bars: 95 %
over templates. Dashes: the same head in untrained judges.
"""

from pathlib import Path

import plotly.graph_objects as go

from benchmarks.figures import paper
from interp.estimates import Estimate, mean
from interp.figures.judge import points
from interp.figures.theme import GREY
from interp.workflows.judge_heads import MEASURES, JudgeHeads, Measure

TITLES = ("attention on the deciding words", "direct contribution", "lost when ablated")
UNITS = ("share beyond uniform", "nats, unsafe less safe", "nats, unsafe less safe")


def shown(heads: JudgeHeads, measure: Measure) -> Estimate:
    return mean(heads.values("attention"), heads.groups) if measure == "attention" else heads.contrast(measure)


def figure(reports: Path) -> go.Figure:
    where = ("safety-judge", "safety-judge", "heads")
    trained, untrained = paper.load(reports, *where, "heads"), paper.load_all(reports, *where, "heads-")
    made = paper.panels(TITLES, columns=3, height=2.1 * paper.INCH, horizontal_spacing=0.09)
    x = list(range(len(trained.names)))
    for column, measure in enumerate(MEASURES, 1):
        others = [shown(one, measure).value for one in untrained]
        dashes = go.Scatter(
            x=x * len(others), y=[value for one in others for value in one], mode="markers",
            name=f"{len(others)} untrained judges", marker=dict(symbol="line-ew-open", size=9, color=GREY),
        )  # fmt: skip
        paper.add(made, [points(shown(trained, measure), x, "trained judge", 0), dashes], 1, column)
        made.update_yaxes(title=UNITS[column - 1], row=1, col=column)
    made.update_yaxes(range=[-0.06, 1.02], row=1, col=1)
    made.update_xaxes(tickmode="array", tickvals=x, ticktext=trained.names, tickangle=-60, showgrid=False)
    return paper.in_print(made, **paper.below(62))


if __name__ == "__main__":
    paper.main(figure)
