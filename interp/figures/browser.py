"""Figures as PNG, drawn in one browser page that stays open."""

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


class Browser:
    """A browser that draws PNG. It has a thread of its own, so that it serves notebooks too, whose loop is running."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._page = _Page(mathjax=False)
        self._wait(self._page.open())

    def png(self, made: go.Figure) -> bytes:
        """A figure as PNG, two pixels to the CSS pixel."""
        return self._wait(self._page.calc_fig(made, opts={"format": "png", "scale": 2}))

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
