"""Claims: an effect, its control, and the rule that turns both into a verdict.

The rule is one for the whole library: the interval of (effect - control) is compared with the smallest difference that
would matter. Above it, supported; below it, not supported; across it, undecided. What was searched over must be inside
the numbers already: choose on one half of the prompts and estimate on the other, or correct the p value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from interp.estimates import Estimate

Verdict = Literal["supported", "not supported", "undecided"]


@dataclass(frozen=True, eq=False)
class Claim:
    """A sentence with the numbers that decide it."""

    name: str
    """Short key, stable between runs."""
    statement: str
    """What is claimed, in words."""
    effect: Estimate
    control: Estimate
    """The same number where the claim's cause is absent."""
    control_name: str
    difference: Estimate
    """Effect minus control."""
    minimum: float
    """The smallest difference that would matter."""
    unit: str
    note: str = ""
    """What was searched over, what the number does not mean."""
    also: Mapping[str, bool | None] = field(default_factory=dict)
    """Further conditions in words, and whether each holds (None: cannot be told): a claim is supported only where all
    do."""

    @property
    def verdict(self) -> Verdict:
        """Supported, not supported or undecided, by the interval of the difference against the minimum.

        Where a further condition fails it is not supported, whatever the interval; where one cannot be told it is
        not supported or undecided.
        """
        if False in self.also.values():
            return "not supported"
        low, high = float(self.difference.low), float(self.difference.high)
        if np.isnan(low) or np.isnan(high):
            return "undecided"
        if low > self.minimum:
            return "undecided" if None in self.also.values() else "supported"
        return "not supported" if high <= self.minimum else "undecided"

    @property
    def rule(self) -> str:
        """The rule with its numbers."""
        low, high = float(self.difference.low), float(self.difference.high)
        return (
            f"effect minus {self.control_name}: {float(self.difference.value):.3g} [{low:.3g}, {high:.3g}]; "
            f"supported if the interval lies above {self.minimum:g}, not supported if at or below it{self._further}"
        )

    @property
    def _further(self) -> str:
        held = {True: "it is so", False: "it is not so", None: "it cannot be told"}
        return "".join(f"; and only if {what} ({held[so]})" for what, so in self.also.items())

    def as_dict(self) -> dict[str, object]:
        """Everything as plain values."""
        return {
            "name": self.name,
            "statement": self.statement,
            "verdict": self.verdict,
            "unit": self.unit,
            "effect": self.effect.as_dict(),
            "control": self.control.as_dict(),
            "control_name": self.control_name,
            "difference": self.difference.as_dict(),
            "minimum": self.minimum,
            "rule": self.rule,
            "also": dict(self.also),
            "note": self.note,
        }
