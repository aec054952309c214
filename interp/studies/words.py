"""Wording that claims share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from interp.estimates import Estimate
from interp.evidence import Claim
from interp.workflows.selection import Chosen

CONFIRMED = "chosen among {} on one half of the problems, estimated on the other"


def percent(share: Estimate | np.ndarray | float) -> str:
    """A share for a sentence; a decimal more where rounding would make it all or nothing."""
    share = float(share.value if isinstance(share, Estimate) else share)
    share = 0.0 if abs(share) < 5e-4 else share  # no minus before a zero
    near = 0 < abs(share) < 0.005 or 0.995 <= share < 1
    return f"{share:.1%}" if near else f"{round(100 * share) + 0:d}%" if share == share else "–"


def claim_of(best: Chosen, **words: Any) -> Claim:
    """A claim on what was chosen on one half and estimated on the other."""
    return Claim(effect=best.effect, control=best.control, difference=best.difference, **words)


def folder_name(model: str) -> str:
    """A plain name for the folder of a model's results, whatever path or hub name the model has."""
    name = Path(model).resolve().name if Path(model).exists() else model.rsplit("/", 1)[-1]
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "model"
