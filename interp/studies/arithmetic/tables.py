"""The JSON files of a model's folder: head lists, importance, probes, neurons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp.studies.arithmetic.circuits import circuit_tables
from interp.studies.arithmetic.claims import learned
from interp.studies.arithmetic.parts import importance_tables, splits
from interp.studies.arithmetic.probes import probe_tables
from interp.studies.arithmetic.subject import ArithmeticSubject
from interp.studies.pictures import untrained_scores
from interp.studies.study import Results


def tables(subject: ArithmeticSubject, found: Mapping[str, Results]) -> dict[str, Any]:
    """Every table that the steps allow, by the name of its file."""
    made: dict[str, Any] = {}
    if "attention" in found:
        made["heads"] = _jobs(found["attention"])
    if "interventions" in found:
        prompts = subject.prompts.take(range(len(subject.problems)))
        made |= importance_tables(found["interventions"], splits(prompts))
    if "circuits" in found:
        made |= circuit_tables(found["circuits"], found.get("attention", found["circuits"]))
    if "probing" in found:
        made |= probe_tables(found["probing"])
    return made


def _jobs(found: Results) -> list[dict[str, Any]]:
    """The best head of each job."""
    best = learned(found["head-scores"], untrained_scores(found))
    return [
        {
            "job": job,
            "head": f"L{head.layer}H{head.column}",
            "score": head.effect.as_dict(),
            "untrained": head.control.as_dict(),
            "learned": head.difference.as_dict(),
        }
        for job, head in best.items()
    ]
