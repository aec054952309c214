"""Figures as PNG and PDF, drawn in one browser page that stays open."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import kaleido
import plotly.graph_objects as go

_T = TypeVar("_T")


class _Page(kaleido.Kaleido):
    """Kaleido loads plotly.js anew after each figure, which takes longer than most figures; this keeps the page."""

    async def _return_kaleido_tab(self, tab: Any) -> None:
        await self.tabs_ready.put(tab)


class _Sheet(kaleido.PageGenerator):
    """Kaleido prints with margins and shrinks the figure to what they leave; here a PDF has the figure's own size."""

    header = f"{kaleido.PageGenerator.header}<style>@page {{ margin: 0 }} img {{ display: block }}</style>"


class Browser:
    """A browser that draws figures. It has a thread of its own, so that it serves notebooks, whose loop is running."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._page = _Page(page_generator=_Sheet(mathjax=False))
        self._wait(self._page.open())

    def png(self, made: go.Figure, scale: float = 2) -> bytes:
        """A figure as PNG, `scale` pixels to the CSS pixel."""
        return self._wait(self._page.calc_fig(made, opts={"format": "png", "scale": scale}))

    def pdf(self, made: go.Figure) -> bytes:
        """A figure as PDF of one page; a CSS pixel is 1/96 inch, text stays text."""
        return self._wait(self._page.calc_fig(made, opts={"format": "pdf"}))

    def close(self) -> None:
        """Close the browser."""
        try:
            self._wait(self._page.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
