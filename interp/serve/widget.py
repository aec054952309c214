"""The probe in a notebook: the same view as the page, over the notebook's own messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anywidget import AnyWidget

from interp.errors import InterpError
from interp.files import read_text
from interp.models.judge import Judge
from interp.models.judge_runs import Baseline
from interp.serve.answers import Answers, answers
from interp.serve.snapshot import snapshot

__all__ = ["probe", "reply", "snapshot"]
STATIC = Path(__file__).parent / "static"


class _Probe(AnyWidget):
    _esm = read_text(STATIC / "probe.js")
    _css = read_text(STATIC / "probe.css")


def probe(judge: Judge, text: str = "", *, baseline: Baseline = "mean", budget: int = 32) -> AnyWidget:
    """The probe as a widget, with `text` typed in. It needs a kernel; `snapshot` gives a page that does not."""
    made, known = _Probe(), answers(judge, baseline=baseline, budget=budget, text=text)

    def heard(_: Any, content: Any, buffers: Any) -> None:
        if isinstance(content, dict) and "id" in content:
            made.send({"id": content["id"], **reply(known, content)})

    made.on_msg(heard)
    return made


def reply(known: Answers, message: dict[str, Any]) -> dict[str, Any]:
    """The `result` that a message from the view asks for, or the `error` in one line."""
    asked, text = message.get("ask"), message.get("text")
    if asked not in known or not isinstance(text, str):
        return {"error": f"the probe has no answer to {asked!r} with that text"}
    try:
        return {"result": known[asked](text)}
    except InterpError as error:
        return {"error": str(error)}
    except Exception as error:  # the view would wait for an answer that never comes
        return {"error": f"the model failed: {type(error).__name__}: {error}"}
