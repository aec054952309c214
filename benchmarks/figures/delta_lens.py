"""What a control token's trace says in words: its delta read through the unembedding. a, b: the tokens that it promotes
and suppresses most at the last depth, mean over prompts. c: the whole vocabulary, and where the end of the text stands.
No intervals there. d: how far the end is promoted at each depth, in standard deviations over the vocabulary; band 95 %;
grey: each neutral token in its place (95 % of them), dotted their median.
"""

from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from benchmarks.figures import paper
from interp.figures import plot


def figure(reports: Path) -> go.Figure:
    lens = paper.load(reports, "kill-switch", "kill-switch-behavioural", "lens", "lens")
    made: Any = plot(lens)
    notes = made.layout.annotations
    made.update_layout(width=paper.PAGE, height=4.6 * paper.INCH)
    paper.lettered(made, [note.text for note in notes[:4]])
    for note in notes[4:]:
        made.add_annotation(note)
    highest = max(float(np.nanmax(trace.y)) for trace in made.select_traces(row=2, col=1))
    made.update_yaxes(range=[-0.1, np.log10(8 * highest)], row=2, col=1)
    return paper.in_print(made, **paper.below(60))


if __name__ == "__main__":
    paper.main(figure)
