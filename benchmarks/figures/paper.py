"""What the figures for print share: their look, finding results in run folders, files, captions and the command line.

A script is one figure: its file name says what it shows, the first sentence of its docstring is the caption, and
`figure(reports)` makes a plotly figure from the run folders that `make reproduce` wrote. No model is run.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp import results
from interp.errors import DataError, InterpError
from interp.estimates import Estimate
from interp.figures.deltas import ribbon
from interp.figures.files import why_no_browser
from interp.figures.grids import heat
from interp.figures.theme import CONTROL, GREY, TEMPLATE, rgba
from interp.files import atomic, read_text, write_text

Figure = Callable[[Path], go.Figure]
HERE = Path(__file__).parent
INCH = 96.0
"""Pixels of the figure to the inch of the page, so that 10 pixels are 7.5 points."""
COLUMN, PAGE = 3.3 * INCH, 6.9 * INCH
"""Widths of one column and of two."""
DOTS = 300
"""PNG pixels to the inch."""
SMALL, TEXT, LETTER = 9.4, 10.0, 12.0
"""Pixels: 7, 7.5 and 9 points."""
COLORBAR = dict(
    thickness=7, tickfont_size=SMALL, title_font_size=SMALL, title_side="right", outlinewidth=0, ticklen=2, xpad=4
)  # fmt: skip

_THINNER = 0.62
"""Lines and markers that are made for a screen, in print."""


def load(reports: Path, study: str, *below: str) -> Any:
    """A result of a study's run. Raises DataError that says what to run where it is missing."""
    return results.load(_there(reports, study, *below))


def load_all(reports: Path, study: str, *below: str) -> list[Any]:
    """The results whose names begin with the last part of the path and go on with a number, in order."""
    folder, start = _there(reports, study, *below[:-1], f"{below[-1]}0").parent, below[-1]
    numbers = sorted(int(at.name[len(start) :]) for at in folder.glob(f"{start}*") if at.name[len(start) :].isdigit())
    return [results.load(folder / f"{start}{number}") for number in numbers]


def _there(reports: Path, study: str, *below: str) -> Path:
    folder = reports.joinpath(study, *below)
    if not (folder / "result.json").is_file():
        raise DataError(f"{folder} is missing; run this first: interp run {study} --out {reports / study}")
    return folder


def panels(
    titles: Sequence[str], *, rows: int = 1, columns: int = 1, width: float = PAGE, height: float, **options: Any
) -> go.Figure:
    """Empty panels in the order of reading, with a letter and a title each; sizes in pixels."""
    made = make_subplots(rows=rows, cols=columns, **options)
    made.update_layout(width=width, height=height)
    lettered(made, titles)
    return made


def lettered(made: Any, titles: Sequence[str]) -> None:
    """Put a letter and a title over each panel, at its left edge, in the place of other annotations."""
    made.layout.annotations = ()
    axes = zip(made.select_xaxes(), made.select_yaxes(), strict=True)
    for letter, title, (x, y) in zip("abcdefghijkl", titles, axes, strict=False):
        made.add_annotation(
            text=f'<b style="font-size:{LETTER}px">{letter}</b>  {title}', x=x.domain[0], y=y.domain[1], xref="paper",
            yref="paper", xanchor="left", yanchor="bottom", xshift=-4, yshift=2, showarrow=False,
        )  # fmt: skip


def in_print(made: Any, **layout: Any) -> go.Figure:
    """Restyle a figure of the library, or one of panels, for print: small type, thin lines, no title."""
    for trace in made.data:
        _thin(trace)
        _without_pattern(trace)
        if isinstance(trace, go.Heatmap):  # the lines of the grid would show between its cells
            for letter, number in ((name[0], name[1:]) for name in (trace.xaxis or "x", trace.yaxis or "y")):
                made.layout[f"{letter}axis{number}"].showgrid = False
    for shape in made.layout.shapes:
        shape.line.width = 0.8
    axis: dict[str, Any] = dict(
        tickfont_size=SMALL, title_font_size=TEXT, ticklen=3, tickwidth=0.8, linewidth=0.8, title_standoff=4,
        gridwidth=0.6,
    )  # fmt: skip
    made.update_layout(
        template=TEMPLATE, title=None, font_size=SMALL, legend_font_size=SMALL,
        **{"margin": dict(l=44, r=8, t=20, b=34), **layout},
    )  # fmt: skip
    made.update_xaxes(**axis)
    made.update_yaxes(**axis)
    made.update_annotations(font=dict(size=SMALL, color="#1c1c1c"))
    return made


def _thin(trace: Any) -> None:
    for part, name in (("line", "width"), ("marker", "size"), ("error_y", "thickness"), ("error_y", "width")):
        if part in trace and name in trace[part] and np.isscalar(trace[part][name]):
            trace[part][name] *= _THINNER
    if "colorbar" in trace and trace.showscale is not False:
        trace.colorbar.update(COLORBAR)


def _without_pattern(trace: Any) -> None:
    """Patterns become coarse pixels in a PDF: a hatched band gets an outline instead, a bar its plain colour."""
    if trace.type == "scatter" and trace.fillpattern.shape:
        trace.update(fillpattern=dict(shape=""), fillcolor=rgba(GREY, 0.05), line=dict(color=GREY, width=0.7))
    if trace.type == "bar":
        trace.update(marker_pattern_shape="")


def below(room: float) -> dict[str, Any]:
    """A legend in lines at the bottom; `room` is what ticks, titles and legend need under the panels."""
    found = dict(orientation="h", x=0, xanchor="left", y=0, yref="container", yanchor="bottom")
    return {"legend": found | dict(itemwidth=30, traceorder="normal"), "margin_b": room}


def add(made: Any, traces: Iterable[go.Scatter | go.Bar], row: int, column: int) -> None:
    """Put traces into a panel; each name stands in the legend once."""
    told = {trace.name for trace in made.data if trace.showlegend is not False}
    for trace in traces:
        if trace.name:
            trace.update(legendgroup=trace.name, showlegend=trace.name not in told and trace.showlegend is not False)
            told.add(trace.name)
        made.add_trace(trace, row=row, col=column)


def control(x: Sequence[float], estimate: Estimate, name: str) -> list[go.Scatter]:
    """The control's line, dotted and grey, with its 95 % band."""
    line = go.Scatter(x=list(x), y=estimate.value, name=name, mode="lines", line=CONTROL, legendrank=1100)
    return [ribbon(x, estimate.low, estimate.high, GREY), line]


def legends(made: Any, room: float) -> dict[str, Any]:
    """A legend under each panel of the lowest row, for its own traces; `room` as in `below`."""
    found: dict[str, Any] = {"margin_b": room}
    for number, axis in enumerate(made.select_xaxes()):
        name = f"legend{number + 1 if number else ''}"
        found[name] = dict(
            x=axis.domain[0], xanchor="left", y=(room - 40) / made.layout.height, yref="container", yanchor="top",
            itemwidth=30, traceorder="normal",
        )  # fmt: skip
        made.update_traces(legend=name, selector=dict(xaxis=f"x{number + 1 if number else ''}"))
    return found


def cells(estimate: Estimate, columns: Sequence[str], rows: Sequence[str], **options: Any) -> go.Heatmap:
    """A grid whose cells say the value and, under it, the 95 % interval."""
    grid = heat(estimate.value, columns, rows, **options)
    text = np.full(estimate.value.shape, "", dtype=object)
    for at in np.ndindex(*estimate.value.shape):
        value, low, high = (float(end[at]) for end in (estimate.value, estimate.low, estimate.high))
        if np.isfinite(value):
            text[at] = plain(value) + (f"<br>[{plain(low)}, {plain(high)}]" if np.isfinite(low) else "")
    grid.update(text=text, texttemplate="%{text}", textfont_size=SMALL, hoverinfo="skip")
    return grid


def plain(value: float) -> str:
    """Two digits, without a zero before the point."""
    text = f"{value:.2f}"
    text = text.replace("0.", ".", 1) if abs(float(text)) < 1 else text
    return text.replace("-", "−").replace("−.00", ".00")


def caption(script: Path) -> tuple[str, str]:
    """The first sentence of a script's docstring, and what follows it."""
    said = " ".join((ast.get_docstring(ast.parse(read_text(script))) or "").split())
    first, dot, rest = said.partition(". ")
    return first + dot.strip(), rest


def scripts() -> list[Path]:
    """All figures: the files of this folder that are neither this one nor the command."""
    return [path for path in sorted(HERE.glob("*.py")) if path.stem not in ("paper", "__main__", "__init__")]


def main(figure: Figure) -> None:
    """The command line of one script."""
    sys.exit(command({Path(inspect.getfile(figure)).stem: figure}))


def command(figures: Mapping[str, Figure]) -> int:
    """Read the command line and draw: 2 where the input of a figure is missing, and the others are drawn all the
    same."""
    parser = argparse.ArgumentParser(description="Figures for print, from the run folders that make reproduce wrote.")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="where the run folders are")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="where PDF, PNG and captions.md go")
    asked = parser.parse_args()
    made: dict[str, go.Figure] = {}
    try:
        lacking = why_no_browser()
        if lacking:
            raise DataError(f"figures are drawn by a browser: {lacking}")
        if not asked.reports.is_dir():
            _say(f"there is no folder {asked.reports}; run this first: make reproduce OUT={asked.reports}")
        for name, figure in figures.items():
            try:
                made[name] = figure(asked.reports)
            except InterpError as error:
                _say(f"{name}: {error}")
        if made:
            write(made, asked.out)
    except InterpError as error:
        _say(str(error))
    return 0 if len(made) == len(figures) else 2


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def write(made: Mapping[str, go.Figure], out: Path) -> None:
    """PDF and PNG of each figure, drawn in one browser, and the captions of all that are in the folder."""
    from interp.figures.browser import Browser

    with closing(Browser()) as browser:
        for name, figure in made.items():
            for kind, content in (("png", browser.png(figure, DOTS / INCH)), ("pdf", browser.pdf(figure))):
                with atomic(out / f"{name}.{kind}") as temporary:
                    temporary.write_bytes(content)
            print(out / f"{name}.pdf")
    told = [(path.stem, *caption(path)) for path in scripts() if (out / f"{path.stem}.pdf").exists()]
    write_text(out / "captions.md", "".join(f"**{name}.** **{first}** {rest}\n\n" for name, first, rest in told))
