"""What the probe can be asked, whichever way it is reached: over HTTP, or over a notebook's messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from interp.models.judge import Judge
from interp.models.judge_runs import Baseline
from interp.serve.snapshot import page
from interp.serve.view import about, view, word_edits

LIVE_STEPS = 128
"""Most points of integrated gradients while one types; a snapshot takes what it needs."""
Answers = dict[str, Callable[[str], dict[str, Any]]]


def answers(judge: Judge, *, baseline: Baseline = "mean", budget: int = 32, text: str = "") -> Answers:
    """A function of the text for each question, with an answer for JSON; `text` is what the page begins with."""
    told = about(judge, baseline=baseline)
    return {
        "about": lambda _: {**told, "text": text},
        "verdict": lambda said: view(judge, said, baseline=baseline, edits=False, most_steps=LIVE_STEPS).as_dict(),
        "edits": lambda said: {"text": said, "edits": [asdict(e) for e in word_edits(judge, said, budget=budget)]},
        "snapshot": lambda said: {"html": page(view(judge, said, baseline=baseline, budget=budget), told)},
    }
