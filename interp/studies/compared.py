"""Two models on the same prompts: their tables side by side, as a part of a study that has both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from interp.errors import ConfigError, PromptError
from interp.evidence import Claim
from interp.figures import plot
from interp.results import fingerprint
from interp.studies.study import Part, Picture, Results, Step
from interp.workflows.comparison import Comparison, compare

LEVEL = 0.05
Found = Mapping[str, Mapping[str, Results]]


def comparison_part(
    first: Part,
    second: Part,
    *,
    name: str = "comparison",
    title: str,
    about: str,
    claims: Callable[[Found], Sequence[Claim]] = lambda _: (),
    headline: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Part:
    """Every table that both parts have, with the difference; made from their results, without another forward pass.

    Steps named in `without` are left out: where the two models are not asked the same there.
    """
    names = (first.name, second.name)

    def derive(found: Found) -> Results:
        made: Results = {}
        for step in (step for step in found[first.name] if step not in without):
            for result in found[first.name][step]:
                other = found[second.name].get(step, {}).get(result)
                if other is None or result.startswith(("example", "untrained")):
                    continue
                try:
                    made[f"{step} {result}"] = compare(found[first.name][step][result], other, names)
                except (ConfigError, PromptError):
                    continue  # of a kind that has no table, or on prompts of its own
        if not made:
            raise PromptError(f"{names[0]} and {names[1]} have no table on the same prompts to compare")
        return made

    def pictures(found: Results) -> list[Picture]:
        return [
            Picture(
                key.replace(" ", "-").replace(".", "-"), f"{key}: {names[0]}, {names[1]} and the difference.",
                lambda r=result: plot(r), not headline or key in headline,
            )
            for key, result in found.items()
        ]  # fmt: skip

    keys = [[step.fingerprint for step in part.steps] for part in (first, second)]
    step = Step(
        "tables",
        lambda _: {},
        fingerprint("comparison", names, keys, without),
        pictures,
        text="The same table of both models on the same problems, and the second less the first, problem by problem.",
        derive=derive,
    )
    return Part(
        name=name,
        title=title,
        about=about,
        model={},
        steps=[step],
        joint_claims=claims,
        highlights=lambda found: [_differing(found["tables"], names)],
        tables=lambda found: {key.replace(" ", "-"): _plain(result) for key, result in found["tables"].items()},
    )


MOST = 30
"""Differing cells listed on the page."""


def _differing(found: Results, names: tuple[str, str]) -> dict[str, Any]:
    """The cells of all tables that differ, the largest difference of each table's scale first."""
    rows = []
    for key, result in found.items():
        gap = result.estimate("difference")
        scale = float(np.nanmax(np.abs(gap.value))) or 1.0
        for i, j in np.argwhere(gap.p <= LEVEL).tolist():
            values = [f"{float(getattr(result, of)[i, j, 0]):.3g}" for of in ("first", "second")]
            low, high = float(gap.low[i, j]), float(gap.high[i, j])
            ends = "(no interval)" if np.isnan(low) else f"[{low:.3g}, {high:.3g}]"
            change = f"{float(gap.value[i, j]):.3g} {ends}"
            where = f"{result.rows[i]}, {result.columns[j]}"
            rows.append((-abs(float(gap.value[i, j])) / scale, [f"{result.what} ({key})", where, *values, change]))
    rows.sort(key=lambda row: row[0])
    return {
        "title": "Where they differ",
        "text": f"{len(rows)} cells differ (p at most {LEVEL:g}, corrected for all cells of their table)"
        + (f"; the {MOST} largest, each on its table's scale:" if len(rows) > MOST else "."),
        "columns": ["table", "cell", *names, "second less first"],
        "rows": [row for _, row in rows[:MOST]],
    }


def _plain(result: Comparison) -> dict[str, Any]:
    parts = {name: result.estimate(of) for name, of in zip(result.names, ("first", "second"), strict=True)}
    parts["difference"] = result.estimate("difference")
    return {
        "what": result.what,
        "unit": result.unit,
        "p": "of no difference, corrected for all cells of the table",
        "cells": [
            {"row": row, "column": column, **{name: part[i, j].as_dict() for name, part in parts.items()}}
            for i, row in enumerate(result.rows)
            for j, column in enumerate(result.columns)
        ],
    }
