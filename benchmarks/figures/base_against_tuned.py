"""What fine-tuning changed in a control token's trace: its size by site before and after, and with which half of the
model the behaviour came. a: norm of the delta over the norm of the stream, at the token. b: the body of one model read
through the head (final norm and unembedding) of the other: probability of the end at the token. c: fine-tuned less base
on the same prompts. d: as b, at a neutral token (control). Bands and brackets: 95 %; grey: the neutral tokens, 95 % of
them.
"""

from pathlib import Path

import plotly.graph_objects as go

from benchmarks.figures import paper
from interp.estimates import mean
from interp.figures.deltas import curve, hatched, ribbon, ticks
from interp.figures.diffing import change_of_norms
from interp.figures.theme import CONTROL, GREY


def figure(reports: Path) -> go.Figure:
    where = ("kill-switch", "kill-switch-behavioural", "base")
    base, tuned, crossed = (paper.load(reports, *where, name) for name in ("base-norms", "tuned-norms", "crossed"))
    made = paper.panels(
        ["at the token", "P(end), the token", "fine-tuned less base", "P(end), neutral token"], rows=2, columns=2,
        height=4.4 * paper.INCH, shared_xaxes="columns", column_widths=[0.7, 0.3], horizontal_spacing=0.16,
        vertical_spacing=0.09,
    )  # fmt: skip
    x = range(len(tuned.depths))
    for number, (name, norms) in enumerate((("base", base), ("fine-tuned", tuned))):
        low, _, high = norms.band()[..., 0]
        grey = ribbon(x, low, high, GREY, f"neutral tokens, {name}", alpha=(0.14, 0.3)[number], legendrank=1100)
        grey.update(fillpattern=hatched() if number == 0 else None)
        own = curve(x, norms.estimate()[:, 0], f"the token, {name}", number, labels=norms.depths)
        paper.add(made, [grey, *own], 1, 1)
    apart, (low, middle, high) = change_of_norms(base, tuned)
    median = go.Scatter(x=list(x), y=middle, mode="lines", line=CONTROL, name="median neutral token", legendrank=1200)
    own = curve(x, apart, "fine-tuned less base", 2, labels=tuned.depths)
    paper.add(made, [ribbon(x, low, high, GREY, alpha=0.3), median, *own], 2, 1)
    for row, values in enumerate((crossed.values, crossed.neutral), 1):
        grid = paper.cells(mean(values, crossed.groups), crossed.heads, crossed.bodies, limits=(0, 1))
        made.add_trace(grid, row=row, col=2)
    made.update_yaxes(title="relative norm", rangemode="tozero", row=1, col=1)
    made.update_yaxes(title="change of relative norm", row=2, col=1)
    made.update_yaxes(title="body of", title_standoff=0, autorange="reversed", col=2)
    made.update_xaxes(title="head of", row=2, col=2)
    made.update_xaxes(**ticks(tuned.depths), tickangle=-40, row=2, col=1)
    return paper.in_print(made, **paper.below(108))


if __name__ == "__main__":
    paper.main(figure)
