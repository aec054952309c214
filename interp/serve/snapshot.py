"""One view as a page that stands alone: a file to keep, to send, to print. All text in it is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from interp.files import read_text
from interp.models.judge import Judge
from interp.models.judge_runs import Baseline
from interp.serve.view import View, about, view

CSS = Path(__file__).parent / "static" / "probe.css"


def snapshot(judge: Judge, text: str, *, baseline: Baseline = "mean", budget: int = 32) -> str:
    """Judge a text and draw it as a self-contained HTML page."""
    return page(view(judge, text, baseline=baseline, budget=budget), about(judge, baseline=baseline))


def page(shown: View, told: Mapping[str, Any]) -> str:
    """The page of a view, with what `interp.serve.view.about` says of its judge."""
    environment = Environment(
        loader=PackageLoader("interp.serve"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"signed": signed, "percent": percent, "visible": visible}
    return environment.get_template("snapshot.html").render(
        view=shown, about=told, css=read_text(CSS), pieces=_pieces(shown), trace=_trace(shown),
        largest=max((abs(token.value) for token in shown.tokens), default=0.0),
        digits=digits,
    )  # fmt: skip


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, and none where it rounds to 0."""
    shown = f"{abs(value):.{digits}f}"
    return shown if float(shown) == 0 else ("+" if value > 0 else "\u2212") + shown


def digits(values: Iterable[float]) -> int:
    """Decimals where there is little room: more where all numbers are small."""
    return 2 if max(map(abs, values), default=0.0) < 1 else 1


def percent(share: float) -> str:
    """A probability; never rounded to a certainty."""
    return "< 0.01 %" if share < 1e-4 else "> 99.99 %" if share > 1 - 1e-4 else f"{100 * share:.2f} %"


def visible(text: str) -> str:
    """A token with its blanks made visible where there is nothing else."""
    shown = text.replace("\n", "\u23ce").replace("\t", "\u21e5")
    return shown.replace(" ", "\u2423") if not shown.strip() else shown


def _pieces(shown: View) -> list[tuple[str, Any]]:
    """The text between the tokens, and the tokens, in order."""
    made, last = [], 0
    for token in shown.tokens:
        made.append((shown.text[last : token.start], token))
        last = token.end
    return [*made, (shown.text[last:], None)]


def _trace(shown: View, width: float = 520, height: float = 180) -> dict[str, Any]:
    """Where the points of the drawing of the depths are."""
    values = [depth.log_odds for depth in shown.trace]
    top, bottom = max(0.0, *values), min(0.0, *values)
    spread = (top - bottom) or 1.0
    left, right, over, under = 62, 34, 26, 44

    def y(value: float) -> float:
        return round(over + (top - value) / spread * (height - over - under), 1)

    step = (width - left - right) / max(1, len(values) - 1)
    every = -(-len(values) // 8)
    points = [
        {"x": round(left + i * step, 1), "y": y(depth.log_odds), "name": depth.name, "log_odds": depth.log_odds,
         "named": (len(values) - 1 - i) % every == 0}
        for i, depth in enumerate(shown.trace)
    ]  # fmt: skip
    return {"width": width, "height": height, "left": left, "right": width - right, "zero": y(0.0), "points": points}
