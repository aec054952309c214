"""One look for every figure, passed explicitly: nothing global is changed.

Colours are Okabe & Ito's (readable with colour-blindness); lines differ by dash and marker too, grids carry numbers.
"""

from __future__ import annotations

import html
from typing import Any

import plotly.graph_objects as go

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "triangle-down")
GREY = "#6b6b6b"
CONTROL = dict(color=GREY, dash="dot", width=1.5)
DIVERGING = "RdBu_r"
SEQUENTIAL = "Cividis"

_FONT = "Inter, Helvetica Neue, Arial, sans-serif"
TEMPLATE = go.layout.Template(
    layout=go.Layout(
        font=dict(family=_FONT, size=13, color="#1c1c1c"),
        title=dict(x=0, xanchor="left", xref="container", pad=dict(l=16, t=12), y=1, yanchor="top", font=dict(size=15)),
        paper_bgcolor="white",
        plot_bgcolor="white",
        colorway=list(PALETTE),
        margin=dict(l=70, r=30, t=96, b=60),
        xaxis=dict(
            showline=True, linecolor="#444", ticks="outside", gridcolor="#ececec", zeroline=False, automargin=True
        ),
        yaxis=dict(
            showline=True, linecolor="#444", ticks="outside", gridcolor="#ececec", zeroline=False, automargin=True
        ),
        legend=dict(bgcolor="rgba(255,255,255,0.8)", font=dict(size=12)),
        hoverlabel=dict(font=dict(family=_FONT)),
    )
)


def figure(title: str, subtitle: str = "", *, width: int = 760, height: int = 440, **layout: Any) -> go.Figure:
    """An empty figure in the house's look; the title says what is shown, the subtitle how to read it."""
    made = go.Figure()
    style(made, title, subtitle, width=width, height=height, **layout)
    return made


def style(made: go.Figure, title: str, subtitle: str = "", **layout: Any) -> None:
    """Give an existing figure the house's look."""
    heading: dict[str, Any] = {"text": title}
    if "width" in layout:  # so that neither line of the heading is cut off
        layout["width"] = max(layout["width"], 60 + 8 * len(html.unescape(title)), 60 + 6 * len(subtitle))
    if subtitle:
        heading["subtitle"] = {"text": subtitle, "font": {"size": 12, "color": GREY}}
    made.update_layout(template=TEMPLATE, title=heading, **layout)
    made.update_annotations(font=dict(size=13, color=GREY))  # the titles of panels


def safe(text: object) -> str:
    """Text from a model, tokenizer or file, made fit for a page: escaped, with blanks made visible."""
    shown = str(text).replace("\n", "⏎").replace("\t", "⇥")
    if shown.strip() == "" or shown != shown.strip():
        shown = shown.replace(" ", "␣")
    return html.escape(shown)


def rgba(color: str, alpha: float) -> str:
    """A palette colour with transparency."""
    r, g, b = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha})"
