"""Logit lens on arithmetic: when each token of the answer becomes the likeliest one, layer by layer. a: the likeliest
token at each depth of one prompt and its probability, in brackets the right one. b to d: share of held-out problems
with the right token on top, for models trained without worked steps, with them, and on three operators. Bands: 95 %.
Dotted: another problem's answer read in the same way (control).
"""

from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from benchmarks.figures import paper
from interp.estimates import proportion
from interp.figures import plot_prediction_evolution
from interp.figures.deltas import curve, ticks
from interp.figures.theme import safe

MODELS = {"arithmetic-add3": "addition", "arithmetic-add3-steps": "worked steps", "arithmetic-mixed": "mixed"}
SHOWN = ("thousands", "hundreds", "tens", "ones")


def figure(reports: Path) -> go.Figure:
    examples = paper.load(reports, "arithmetic", "arithmetic-add3", "logit-lens", "examples")
    made = paper.panels(
        [f"one prompt, {safe(examples.texts[0])}", *MODELS.values()], rows=2, columns=2, height=4.1 * paper.INCH,
        horizontal_spacing=0.1, vertical_spacing=0.19,
    )  # fmt: skip
    grid: Any = plot_prediction_evolution(examples, 0).data[0]
    names = [name.removeprefix("answer.").replace(" [", "<br>[") for name in grid.x]
    text = [
        [f"{token}<br>{paper.plain(share)}" for token, share in zip(tokens, shares, strict=True)]
        for tokens, shares in zip(grid.text, grid.z, strict=True)
    ]
    grid.update(x=names, text=text, textfont_size=paper.SMALL, showscale=False)
    made.add_trace(grid, row=1, col=1)
    for number, model in enumerate(MODELS, 1):
        row, column = 1 + number // 2, 1 + number % 2
        lens = paper.load(reports, "arithmetic", model, "logit-lens", "prompts")
        right, control = (proportion(part, lens.groups) for part in (lens.right, lens.control_right))
        x = range(len(lens.depths))
        for i, name in enumerate(SHOWN):
            at = lens.positions.index(f"answer.{name}")
            paper.add(made, curve(x, right[:, at], name, i, labels=lens.depths), row, column)
            paper.add(made, paper.control(x, control[:, at], "another problem's answer"), row, column)
        made.update_xaxes(title="stream after", **ticks(list(lens.depths)), row=row, col=column)
        made.update_yaxes(title="share on top", range=[-0.03, 1.03], row=row, col=column)
    made.update_yaxes(title="stream after", row=1, col=1)
    return paper.in_print(made, **paper.below(58))


if __name__ == "__main__":
    paper.main(figure)
