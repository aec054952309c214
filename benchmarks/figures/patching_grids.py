"""Activation patching of addition: the share of the logit difference that each place brings back when pairs differ in a
carry. Left: patched from the pair's own clean run; right: the control, from another pair's run. In the cells the ratio
of means over pairs and its 95 % interval (none where all pairs agree). Rows: residual stream before each layer,
attention output, MLP output, heads.
"""

from pathlib import Path

import plotly.graph_objects as go

from benchmarks.figures import paper

SITES = {"resid_pre": "stream", "attn_out": "attention output", "mlp_out": "MLP output", "z": "heads"}


def figure(reports: Path) -> go.Figure:
    titles = [f"{name}: {run}" for name in SITES.values() for run in ("own clean run", "control, another pair")]
    made = paper.panels(
        titles, rows=4, columns=2, height=4.9 * paper.INCH, shared_yaxes=True, horizontal_spacing=0.03,
        vertical_spacing=0.11,
    )  # fmt: skip
    for row, site in enumerate(SITES, 1):
        found = paper.load(reports, "arithmetic", "arithmetic-add3", "patching", f"carry.{site}.logit_diff")
        columns = [name if found.axis == "position" else f"head {name}" for name in found.columns]
        for column, control in enumerate((False, True), 1):
            grid = paper.cells(
                found.share(control=control), columns, [f"layer {layer}" for layer in found.layers], diverging=True,
                limits=(-1, 1), colorbar="share of the logit difference restored" if row == column == 1 else None,
            )  # fmt: skip
            made.add_trace(grid, row=row, col=column)
    made = paper.in_print(made, margin=dict(l=46, r=8, t=22, b=24))
    made.update_traces(colorbar=dict(len=1, lenmode="fraction", y=0.5), selector=dict(showscale=True))
    return made


if __name__ == "__main__":
    paper.main(figure)
