"""Which words a safety judge's verdicts hang on. a: share of each token in the log-odds of unsafe, which stand on the
left (nats); bold: the words that decide by the rule the requests were made from. b: share of these words among as many
tokens with the largest shares, by method; dotted: tokens drawn by chance; dashes: untrained judges. c: fall of the log-
odds without those tokens, and with them alone, beside as many random tokens. Error bars: 95 % over templates.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from benchmarks.figures import paper
from interp.analyses.faithfulness import Faithfulness
from interp.estimates import Estimate, mean
from interp.figures.deltas import word
from interp.figures.judge import SIGNED, points, stacked
from interp.figures.theme import CONTROL, GREY
from interp.monitoring.records import Recording

METHODS = ("integrated gradients", "gradient x input", "leave one out", "attention rollout", "raw attention")
MONOSPACE = "Liberation Mono, DejaVu Sans Mono, monospace"
LONGEST = 104
"""Letters that fit in a line."""


def figure(reports: Path) -> go.Figure:
    where = ("safety-judge", "safety-judge")
    recording = paper.load(reports, *where, "training", "watched").recording
    tested = [paper.load(reports, *where, "tokens", f"faithfulness-{name.replace(' ', '-')}") for name in METHODS]
    untrained = paper.load_all(reports, *where, "tokens", "untrained-")
    titles = [f"shares by {word(recording.about['method'])}", "recall of the deciding words", "change of the log-odds"]
    made = paper.panels(
        titles, rows=2, columns=2, height=4.4 * paper.INCH, specs=[[{"colspan": 2}, None], [{}, {}]],
        row_heights=[0.42, 0.58], vertical_spacing=0.12, horizontal_spacing=0.1,
    )  # fmt: skip
    _texts(made, recording)
    _tests(made, tested, untrained)
    return paper.in_print(made, barmode="overlay", **paper.legends(made, 124))


def _texts(made: go.Figure, recording: Recording) -> None:
    """The explained texts after the last snapshot, a line each, every token as wide as it is written."""
    texts = [i for i, pieces in enumerate(recording.pieces) if len("".join(pieces)) <= LONGEST]
    limit = max(float(np.abs(recording.tokens[i][-1]).max()) for i in texts)
    for row, i in enumerate(texts):
        pieces, number = recording.pieces[i], recording.probe.explained[i]
        words = [piece.strip() for piece in pieces]
        widths = [len(said) + 1 for said in words]
        decides = recording.probe.spans[number].values() if recording.probe.spans else ()
        ends = np.cumsum([len(piece) for piece in pieces])
        bold = [any(a < end <= b for a, b in decides) for end in ends]
        text = [f"<b>{word(said)}</b>" if heavy else word(said) for said, heavy in zip(words, bold, strict=True)]
        made.add_trace(
            go.Bar(
                x=widths, base=np.cumsum([0, *widths[:-1]]), y=[row] * len(words), orientation="h", text=text,
                textposition="inside", insidetextanchor="middle", constraintext="none", textangle=0, showlegend=False,
                textfont=dict(
                    family=MONOSPACE, size=paper.SMALL,
                    color=np.where(np.abs(recording.tokens[i][-1]) > 0.6 * limit, "white", "#1c1c1c").tolist(),
                ),
                marker=dict(
                    color=recording.tokens[i][-1], colorscale=SIGNED, cmin=-limit, cmax=limit, line_width=0,
                    showscale=row == 0,
                    colorbar=paper.COLORBAR | dict(title_text="share (nats)", len=0.4, y=1, yanchor="top"),
                ),
            ), row=1, col=1,
        )  # fmt: skip
    odds = [f"{recording.log_odds[-1][recording.probe.explained[i]]:+.1f}".replace("-", "−") for i in texts]
    made.update_yaxes(
        tickvals=list(range(len(texts))), ticktext=odds, autorange="reversed", showgrid=False, showline=False, ticks="",
        title="log-odds", row=1, col=1,
    )  # fmt: skip
    made.update_xaxes(visible=False, range=[0, LONGEST], row=1, col=1)


def _tests(made: go.Figure, tested: Sequence[Faithfulness], untrained: Sequence[Faithfulness]) -> None:
    x = list(range(len(METHODS)))

    def over(of: str) -> Estimate:
        return stacked([mean(getattr(one, of), one.groups) for one in tested])

    dashes = go.Scatter(
        x=[0] * len(untrained), y=[float(one.recall.mean()) for one in untrained], mode="markers",
        name="untrained judges", marker=dict(symbol="line-ew-open", size=13, color=GREY),
    )  # fmt: skip
    chance = go.Scatter(x=x, y=over("even").value, mode="lines", line=CONTROL, name="tokens by chance")
    paper.add(made, [points(over("recall"), x, "recall", 0), dashes, chance], 2, 1)
    parts = (
        ("without the tokens", "without random tokens", "comprehensiveness"),
        ("with them alone", "with random tokens alone", "sufficiency"),
    )
    for number, (name, randomly, of) in enumerate(parts, 1):
        shift = (-0.22, 0.08)[number - 1]
        paper.add(made, [points(over(of), [i + shift for i in x], name, number)], 2, 2)
        random = points(over(f"random_{of}"), [i + shift + 0.14 for i in x], randomly, number)
        random.update(marker=dict(color="white", line=dict(color=GREY, width=1.5)))
        paper.add(made, [random], 2, 2)
    names = [name.replace(" ", "<br>", 1) for name in METHODS]
    made.update_xaxes(tickmode="array", tickvals=x, ticktext=names, range=[-0.5, len(x) - 0.5], showgrid=False, row=2)
    made.update_yaxes(title="share of them found", range=[-0.03, 1.05], row=2, col=1)
    made.update_yaxes(title="fall of the log-odds (nats)", rangemode="normal", row=2, col=2)


if __name__ == "__main__":
    paper.main(figure)
