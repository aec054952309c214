"""Linear probes on arithmetic: from which depth on carries, digits and the operator can be read from the stream. Lines:
held-out accuracy at the position that predicts the answer's digit and at the equals sign, bands 95 %. Dotted: the
control task, random labels for the values that the label hangs on. Thin grey: the commonest label.
"""

from pathlib import Path

import plotly.graph_objects as go

from benchmarks.figures import paper
from interp.estimates import mean_value, proportion
from interp.figures.deltas import curve, ticks
from interp.figures.theme import GREY

PROBES = (
    ("arithmetic-add3", "carry.ones"), ("arithmetic-add3", "carry.tens"),
    ("arithmetic-add3", "answer.tens"), ("arithmetic-mixed", "operator"),
)  # fmt: skip
PLACES = {
    "=": "at =", "predict.answer.ones": "before the ones", "predict.answer.tens": "before the tens",
    "predict.answer.hundreds": "before the hundreds",
}  # fmt: skip


def figure(reports: Path) -> go.Figure:
    titles = [f"{name.replace('.', ', ')} ({model.removeprefix('arithmetic-')})" for model, name in PROBES]
    made = paper.panels(
        titles, rows=2, columns=2, height=4.2 * paper.INCH, shared_yaxes=True, horizontal_spacing=0.05,
        vertical_spacing=0.24,
    )  # fmt: skip
    for number, (model, name) in enumerate(PROBES):
        row, column = 1 + number // 2, 1 + number % 2
        probe = paper.load(reports, "arithmetic", model, "probing", name)
        accuracy, control = probe.accuracy(), proportion(probe.control, probe.groups)
        x = range(len(probe.depths))
        for i, (place, said) in enumerate(PLACES.items()):
            if place in probe.positions:
                at = probe.positions.index(place)
                paper.add(made, curve(x, accuracy[:, at], said, i, labels=probe.depths), row, column)
                paper.add(made, paper.control(x, control[:, at], "control task"), row, column)
        commonest = go.Scatter(
            x=list(x), y=mean_value(probe.majority).max(1), mode="lines", name="commonest label", legendrank=1200,
            line=dict(color=GREY, width=1.2),
        )  # fmt: skip
        paper.add(made, [commonest], row, column)
        names = [name.replace(" attention", "<br>attention") for name in probe.depths]
        made.update_xaxes(**ticks(names), row=row, col=column)
    made.update_yaxes(range=[-0.03, 1.03])
    made.update_yaxes(title="accuracy", col=1)
    made.update_xaxes(title="stream after", row=2)
    return paper.in_print(made, **paper.below(76))


if __name__ == "__main__":
    paper.main(figure)
