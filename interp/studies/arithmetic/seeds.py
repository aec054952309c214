"""Findings side by side: on several training seeds, which survive; of two models, which they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NAMES = ("accuracy", "cascades", "readable", "digit head", "carry head", "needed head")
STARTS = ("own step", "only its own digit", "head for", "used", "probe", "learned first", "neurons")


def survives(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every headline finding with its effect and verdict on each seed, and on how many it is supported."""
    rows, kept, counted = [], [], 0
    for name, claims in _by_name(parts).items():
        if name not in NAMES and not name.startswith(STARTS):
            continue
        verdicts = [claim["verdict"] if claim else "" for claim in claims]
        supported = verdicts.count("supported")
        counted += 1
        kept += [name] if supported == len(parts) else []
        rows.append([name, *map(_cell, claims), f"{supported} of {len(parts)}"])
    return {
        "title": f"Which findings survive on {len(parts)} training seeds",
        "text": f"{len(kept)} of {counted} findings are supported on every seed: {', '.join(kept) or 'none'}. Each "
        "cell: effect less control, and its verdict. Which head or depth it is may differ from seed to seed; each is "
        "chosen anew on one half of the problems. A dash: not asked there, since no head was found.",
        "columns": ["finding", *(part["title"] for part in parts), "supported on"],
        "rows": rows,
    }


def side_by_side(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The findings of two models next to each other."""
    rows = [[name, *map(_cell, claims)] for name, claims in _by_name(parts).items()]
    return {
        "title": "Findings side by side",
        "text": "Each cell: effect less control with its 95 % interval, and the verdict. A dash: not asked here.",
        "columns": ["finding", *(part["title"] for part in parts)],
        "rows": rows,
    }


def _by_name(parts: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any] | None]]:
    known = [{claim["name"]: claim for claim in part["claims"]} for part in parts]
    names = dict.fromkeys(name for claims in known for name in claims)
    return {name: [claims.get(name) for claims in known] for name in names}


def _cell(claim: Mapping[str, Any] | None) -> str:
    if claim is None:
        return "–"
    value, low, high = (claim["difference"][end] for end in ("value", "low", "high"))
    if value is None or low is None:
        return claim["verdict"]
    shown = [f"{round(x, 2) + 0.0:.2f}" for x in (value, low, high)]  # no minus before a zero
    return f"{shown[0]} [{shown[1]}, {shown[2]}] {claim['verdict']}"
