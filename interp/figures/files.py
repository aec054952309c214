"""Figures on disk: HTML pages that share one plotly.js, JSON for the run's page, and PNG where there is a browser."""

from __future__ import annotations

import html
import json
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import plotly.io as pio
from plotly.offline import get_plotlyjs

from interp.files import atomic, write_text

if TYPE_CHECKING:
    from interp.figures.browser import Browser

PLOTLY_JS = "plotly.min.js"
CONFIG = {"displaylogo": False, "displayModeBar": "hover", "responsive": True, "toImageButtonOptions": {"scale": 3}}


def why_no_browser() -> str:
    """What is missing to draw PNG and PDF; empty where nothing is."""
    try:
        import kaleido  # noqa: F401
        from choreographer.browsers.chromium import Chromium
    except ImportError:
        return "kaleido is not installed; pip install 'interp[png]'"
    if os.environ.get("BROWSER_PATH") or Chromium.find_browser(skip_local=False):
        return ""
    return "there is no Chrome or Chromium on this machine; install one to get PNG files too"


class PictureWriter:
    """Writes figures below a run folder. A context, because the browser that draws PNG is started once for all."""

    def __init__(self, root: Path, *, png: bool = True) -> None:
        self.root = root
        self.why_no_png = why_no_browser() if png else "PNG was not asked for"
        self.png = not self.why_no_png
        self._browser: Browser | None = None

    def __enter__(self) -> PictureWriter:
        script = self.root / PLOTLY_JS
        if not script.exists():
            write_text(script, get_plotlyjs())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._browser is not None:
            self._browser.close()

    def is_there(self, path: Path, key: str) -> bool:
        """Whether a figure with this fingerprint was written completely."""
        if self.png and not path.with_suffix(".png").exists():
            return False
        return path.with_suffix(".html").exists() and _key_of(path.with_suffix(".json")) == key

    def write(self, made: go.Figure, path: Path, key: str) -> None:
        """Write `path`.html, .png and, last, .json (the figure's data, read by the run's page)."""
        depth = len(path.parent.relative_to(self.root).parts)
        plot = pio.to_html(made, include_plotlyjs=False, config=CONFIG, full_html=False, div_id=path.name)
        script = f'<script src="{"../" * depth}{PLOTLY_JS}"></script>'
        write_text(path.with_suffix(".html"), _page(path.name, script + plot, key))
        if self.png:
            self._write_png(made, path.with_suffix(".png"))
        # "<" as an escape, so that no text in a figure can close the script element that will hold this.
        content = json.dumps({"key": key, "figure": json.loads(str(made.to_json()))}).replace("<", "\\u003c")
        write_text(path.with_suffix(".json"), content)

    def write_page(self, content: str, path: Path, key: str) -> None:
        """Write a page fragment as a page of its own, unless it is there with this fingerprint."""
        if not path.exists() or key not in path.read_text(encoding="utf-8")[:400]:
            write_text(path, _page(path.stem, content, key))

    def _write_png(self, made: go.Figure, path: Path) -> None:
        if self._browser is None:
            from interp.figures.browser import Browser

            self._browser = Browser()
        picture = self._browser.png(made)
        with atomic(path) as temporary:
            temporary.write_bytes(picture)


def _page(title: str, content: str, key: str) -> str:
    meta = f'<meta charset="utf-8"><meta name="fingerprint" content="{key}">'
    head = f"<head>{meta}<title>{html.escape(title)}</title></head>"
    return f'<!doctype html>\n<html lang="en">\n{head}\n<body>\n{content}\n</body>\n</html>\n'


def _key_of(path: Path) -> str | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found.get("key") if isinstance(found, dict) else None
