"""The records of a training as a result of a step: what was written line by line, kept as it is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import plotly.graph_objects as go

from interp.evidence import Claim
from interp.figures.training import plot_activity, plot_heads, plot_progress, plot_separation
from interp.files import write_text
from interp.monitoring.checkpoints import record_checkpoints
from interp.monitoring.claims import claims
from interp.monitoring.learning import course
from interp.monitoring.probe import judging_probe
from interp.monitoring.records import PROBE, RECORDS, Recording, read_records


@dataclass(frozen=True, eq=False)
class Watched:
    """Both files of a recording."""

    probe: str
    records: str

    @cached_property
    def recording(self) -> Recording:
        """The snapshots."""
        with tempfile.TemporaryDirectory() as folder:
            write_text(Path(folder) / PROBE, self.probe)
            write_text(Path(folder) / RECORDS, self.records)
            return read_records(folder)

    def claims(self) -> list[Claim]:
        """What the records decide."""
        return claims(self.recording)

    def pictures(self) -> list[tuple[str, str, Callable[[], go.Figure]]]:
        """Names, captions and figures."""
        found = self.recording
        shown: list[tuple[str, str, Callable[[], go.Figure]]] = [
            ("training", "What the judge gets right along its training.", lambda: plot_progress(found, course(found))),
            ("separation", "Where safe and unsafe part, snapshot by snapshot.", lambda: plot_separation(found)),
            ("activity", "What each layer writes at the verdict.", lambda: plot_activity(found)),
        ]
        if found.head_attention.shape[1]:
            shown.append(("heads", "What each head looks at, writes and is needed for.", lambda: plot_heads(found)))
        return shown


def watched(checkpoints: Mapping[int, Path], *, seed: int = 0) -> Watched:
    """Record checkpoints, by their steps, after the fact."""
    with tempfile.TemporaryDirectory() as folder:
        record_checkpoints(checkpoints, judging_probe(seed=5 + seed), out=folder)
        return Watched(*((Path(folder) / name).read_text(encoding="utf-8") for name in (PROBE, RECORDS)))
