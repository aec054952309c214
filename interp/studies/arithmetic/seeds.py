"""Which findings survive on several training seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from interp.studies.side_by_side import by_name, cell

NAMES = ("accuracy", "cascades", "readable", "digit head", "carry head", "needed head")
STARTS = ("own step", "only its own digit", "head for", "used", "probe", "learned first", "neurons")


def survives(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every headline finding with its effect and verdict on each seed, and on how many it is supported."""
    rows, kept, counted = [], [], 0
    for name, claims in by_name(parts).items():
        if name not in NAMES and not name.startswith(STARTS):
            continue
        verdicts = [claim["verdict"] if claim else "" for claim in claims]
        supported = verdicts.count("supported")
        counted += 1
        kept += [name] if supported == len(parts) else []
        rows.append([name, *map(cell, claims), f"{supported} of {len(parts)}"])
    return {
        "title": f"Which findings survive on {len(parts)} training seeds",
        "text": f"{len(kept)} of {counted} findings are supported on every seed: {', '.join(kept) or 'none'}. Each "
        "cell: effect less control, and its verdict. Which head or depth it is may differ from seed to seed; each is "
        "chosen anew on one half of the problems. A dash: not asked there, since no head was found.",
        "columns": ["finding", *(part["title"] for part in parts), "supported on"],
        "rows": rows,
    }
