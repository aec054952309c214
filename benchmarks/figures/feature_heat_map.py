"""How strongly features are used on each kind of request: importance, which is the share of prompts with the feature
times its mean largest activation. a: the most important features of any kind, most of which are active on everything.
b: the most important of those that were confirmed as higher on harmful requests than on safe contrasts and on benign
acts, all categories pooled. Rows of b were chosen by this very difference, on some of the same requests: how large it
is on others, the contrasts tell.
"""

from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from benchmarks.figures import paper
from interp.circuits.triples import KINDS
from interp.figures.grids import heat
from interp.figures.theme import safe

ROWS = 16
SHORT = dict(zip(map(str, KINDS), ("harmful", "safe contrast", "benign act"), strict=True))


def figure(reports: Path) -> go.Figure:
    where = ("safety-circuits", "safety-chat")
    usage = paper.load(reports, *where, "features", "usage")
    contrast = paper.load(reports, *where, "contrast", "all")
    specific = np.array(contrast.names)[contrast.harm_specific]
    order = np.argsort(-usage.importance.max(0), kind="stable")
    chosen = np.array(usage.names)[order]
    shown = [order[:ROWS], order[np.isin(chosen, specific)][:ROWS]]
    top = float(usage.importance.max(initial=0)) or 1.0
    categories, kinds = zip(*map(_parts, usage.groups), strict=True)
    made = paper.panels(
        ["most important", "most important of those confirmed as higher on harm"], columns=2, height=3.9 * paper.INCH,
        horizontal_spacing=0.1,
    )  # fmt: skip
    for column, some in enumerate(shown, 1):
        names = [usage.names[i] for i in some]
        grid = heat(
            usage.importance[:, some].T, usage.groups, names, limits=(0, top), digits=1,
            colorbar="importance" if column == 2 else None,
        )  # fmt: skip
        grid.update(x=[list(categories), list(kinds)], text=None, texttemplate=None)
        made.add_trace(grid, row=1, col=column)
    made.update_yaxes(autorange="reversed", dtick=1)
    made.update_xaxes(tickangle=-90, dividerwidth=0)
    return paper.in_print(made, margin=dict(l=44, r=8, t=20, b=104))


def _parts(group: str) -> tuple[str, str]:
    """Of a group's name: the category and the kind of request."""
    kind = next((one for one in KINDS[1:] if group.endswith(f"_{one}")), KINDS[0])
    return safe(group.removesuffix(f"_{kind}")).replace("_", "<br>"), SHORT[kind]


if __name__ == "__main__":
    paper.main(figure)
