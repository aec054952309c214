"""What is learned when, in the three studies. a: verdicts of the safety judge on held-out requests; dotted: the
accuracy that 2.5 % of shuffled labels exceed. b: probability that the text ends, by checkpoint of the fine-tuning on
the control token; grey: random and neutral tokens' directions, 95 % of them, added like the token's own. c: digits of
the addition model's validation problems that are right, by what comes into their column; dotted: one in ten. Bands: 95
%.
"""

from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from benchmarks.figures import paper
from interp.estimates import mean, mean_value
from interp.figures.deltas import curve, quantiles, ribbon, ticks, word
from interp.figures.theme import CONTROL, GREY
from interp.monitoring.learning import course

DIGITS = {"+ base-add.tens": "no carry", "+ use-carry.tens": "carry", "+ sum.tens": "right up to the carry"}


def level(x: list[float], height: float, name: str) -> go.Scatter:
    return go.Scatter(x=[x[0], x[-1]], y=[height, height], mode="lines", name=name, line=CONTROL)


def figure(reports: Path) -> go.Figure:
    made = paper.panels(
        ["safety judge", "control token", "addition, tens"], columns=3, height=3 * paper.INCH, horizontal_spacing=0.08
    )
    _judge(made, reports)
    _token(made, reports)
    _addition(made, reports)
    made.update_yaxes(range=[-0.03, 1.03])
    return paper.in_print(made, **paper.legends(made, 126))


def _judge(made: go.Figure, reports: Path) -> None:
    recording = paper.load(reports, "safety-judge", "safety-judge", "training", "watched").recording
    found, steps = course(recording), recording.steps.tolist()
    names = [f"step {step}" for step in steps]
    chance = float(np.quantile(found.chance, 0.975))
    paper.add(made, curve(steps, found.accuracy, "accuracy", 0, labels=names), 1, 1)
    paper.add(made, curve(steps, found.auc, "AUC", 1, labels=names), 1, 1)
    paper.add(made, [level(steps, chance, "shuffled labels")], 1, 1)
    made.update_yaxes(title="share", row=1, col=1)
    made.update_xaxes(title="training step", row=1, col=1)


def _token(made: go.Figure, reports: Path) -> None:
    along = paper.load(reports, "kill-switch", "kill-switch-behavioural", "training", "training")
    x, names = list(range(len(along.checkpoints))), [word(name) for name in along.checkpoints]
    low, high = quantiles(mean_value(along.rivals), (0.025, 0.975))
    for number, (name, values) in enumerate(
        {"with the token": along.end_prob, "its direction added": along.own, "neutral token": along.neutral_end_prob}
        .items()
    ):  # fmt: skip
        paper.add(made, curve(x, mean(values, along.groups), name, number, labels=names), 1, 2)
    paper.add(made, [ribbon(x, low, high, GREY, "other directions added", alpha=0.28)], 1, 2)
    made.update_yaxes(title="probability of the end", row=1, col=2)
    made.update_xaxes(title="checkpoint (step)", **ticks(names), row=1, col=2)


def _addition(made: go.Figure, reports: Path) -> None:
    learning = paper.load(reports, "arithmetic", "arithmetic-add3", "learning", "learning")
    steps = list(learning.steps)
    for number, (digits, name) in enumerate(DIGITS.items()):
        lines = curve(steps, learning.share(digits), name, number, labels=[f"step {step}" for step in steps])
        lines[1].mode = "lines"
        paper.add(made, lines, 1, 3)
    paper.add(made, [level(steps, 0.1, "one in ten")], 1, 3)
    made.update_yaxes(title="share of digits right", row=1, col=3)
    made.update_xaxes(title="training step", type="log", dtick=1, row=1, col=3)


if __name__ == "__main__":
    paper.main(figure)
