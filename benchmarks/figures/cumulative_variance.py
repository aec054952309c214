"""How many dimensions a control token's trace has: cumulative share of the squared length of its deltas, by components.
One panel for each depth of the stream, at the token. Uncentred: about zero; centred: about the mean delta. Grey: each
of the neutral tokens in its place, 95 % of them. Above: components for 80 % (line), uncentred / centred; – where all
deltas are the same vector. A spectrum of all prompts together has no interval.
"""

from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from benchmarks.figures import paper
from interp.figures import plot


def figure(reports: Path) -> go.Figure:
    rank = paper.load(reports, "kill-switch", "kill-switch-behavioural", "rank", "rank")
    made: Any = plot(rank)
    titles = [title.text.replace("<br>", ": ") for title in made.layout.annotations]
    made.update_layout(width=paper.PAGE, height=2.4 * paper.INCH)
    paper.lettered(made, titles)
    return paper.in_print(made, **paper.below(72))


if __name__ == "__main__":
    paper.main(figure)
