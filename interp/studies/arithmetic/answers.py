"""The study's questions, each with the claims that answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ADD, MIXED, STEPS = "arithmetic-add3", "arithmetic-mixed", "arithmetic-add3-steps"

ASKED: dict[str, dict[str, tuple[str, ...]]] = {
    "Which layer and heads carry the carry?": {
        ADD: ("carry before", "carry head", "head: next lower column", "probe: carry", "used: carry")
    },
    "When does each answer digit become readable?": {ADD: ("readable",)},
    "Which sub-task does each head serve?": {ADD: ("head for",), MIXED: ("head for",)},
    "Is each answer digit computed one step before it is written, and by that step alone?": {
        ADD: ("own step", "only its own"),
        MIXED: ("own step: add", "only its own digit: add"),
    },
    "Is base addition learned before the use of carries?": dict.fromkeys(
        (ADD, f"{ADD}-seed1", f"{ADD}-seed2"), ("learned first",)
    ),
    "Is multiplication done column by column?": {MIXED: ("own step: mul", "only its own digit: mul", "probe: product")},
    "What does training with worked steps change?": {
        "worked-steps": ("",),
        ADD: ("only its own", "head for use-carry"),
        STEPS: ("only its own", "head for use-carry", "head: own step"),
    },
}
"""For each question the parts that answer it, and how the names of their claims begin."""


MARKS = {"supported": "✓", "not supported": "✗", "undecided": "?"}


def answers(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every question with the findings that bear on it, and how many of them are supported."""
    claims = {part["name"]: part["claims"] for part in parts}
    rows = []
    for question, where in ASKED.items():
        found = [
            (part, claim)
            for part, starts in where.items()
            for claim in claims.get(part, [])
            if claim["name"].startswith(starts)
        ]
        if found:
            several = len({part for part, _ in found}) > 1
            said = [
                f"{MARKS[claim['verdict']]} {part.removeprefix('arithmetic-') + ': ' if several else ''}"
                f"{claim['statement']}"
                for part, claim in found
            ]
            rows.append([question, _in_short([claim["verdict"] for _, claim in found]), "\n".join(said)])
    return {
        "title": "The questions, and what was found",
        "text": "✓ supported, ✗ not supported, ? undecided; every finding stands with its numbers below. A question "
        "whose findings do not agree has no short answer.",
        "columns": ["question", "findings", "what they say"],
        "rows": rows,
    }


def _in_short(verdicts: Sequence[str]) -> str:
    counts = {verdict: verdicts.count(verdict) for verdict in ("supported", "not supported", "undecided")}
    if len(verdicts) == max(counts.values()):
        return f"all {verdicts[0]}" if len(verdicts) > 1 else verdicts[0]
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
