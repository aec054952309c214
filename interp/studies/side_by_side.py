"""Findings of several models next to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def side_by_side(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The findings of two models next to each other."""
    rows = [[name, *map(cell, claims)] for name, claims in by_name(parts).items()]
    return {
        "title": "Findings side by side",
        "text": "Each cell: effect less control with its 95 % interval, and the verdict. A dash: not asked here.",
        "columns": ["finding", *(part["title"] for part in parts)],
        "rows": rows,
    }


def by_name(parts: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any] | None]]:
    """Each claim's name with that claim of every part; None where a part lacks it."""
    known = [{claim["name"]: claim for claim in part["claims"]} for part in parts]
    names = dict.fromkeys(name for claims in known for name in claims)
    return {name: [claims.get(name) for claims in known] for name in names}


def cell(claim: Mapping[str, Any] | None) -> str:
    """Effect less control with its interval, and the verdict."""
    if claim is None:
        return "–"
    value, low, high = (claim["difference"][end] for end in ("value", "low", "high"))
    if value is None or low is None:
        return claim["verdict"]
    shown = [f"{round(x, 2) + 0.0:.2f}" for x in (value, low, high)]  # no minus before a zero
    return f"{shown[0]} [{shown[1]}, {shown[2]}] {claim['verdict']}"
