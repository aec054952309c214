"""Snapshots on disk: `probe.json` says what is asked, `records.jsonl` holds one line for each snapshot.

A line is written at once and forced to the disk, so a training that is killed leaves all that it had; a line that was
cut off by that is dropped. Numbers have four significant digits.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import DataError
from interp.files import make_folder, read_json, write_json, write_text
from interp.monitoring.probe import Probe
from interp.monitoring.snapshot import Snapshot

PROBE, RECORDS = "probe.json", "records.jsonl"
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Recording:
    """All snapshots of a training, in order of their steps. Axes as in `Snapshot`, the snapshot in front."""

    probe: Probe
    about: Mapping[str, Any]
    """How the judge is asked, its size, the schedule and the budget."""
    pieces: tuple[tuple[str, ...], ...]
    """The explained texts, token by token."""
    steps: Int[np.ndarray, " snapshot"]
    loss: Float[np.ndarray, " snapshot"]
    """Training loss, where it was told; else nan."""
    learning_rate: Float[np.ndarray, " snapshot"]
    seconds: Float[np.ndarray, " snapshot"]
    """Spent on watching since the snapshot before, this one's measurement among it."""
    training: Float[np.ndarray, " snapshot"]
    """Seconds of training since the snapshot before."""
    skipped: Int[np.ndarray, " snapshot"]
    """Snapshots that were wanted since the one before, and not affordable."""
    log_odds: Float[np.ndarray, "snapshot prompt"]
    attention: Float[np.ndarray, "snapshot prompt layer"]
    mlp: Float[np.ndarray, "snapshot prompt layer"]
    separation: Float[np.ndarray, "snapshot prompt depth"]
    tokens: tuple[Float[np.ndarray, "snapshot _"], ...]
    """One table for each explained text."""
    unexplained: Float[np.ndarray, "snapshot text"]
    head_attention: Float[np.ndarray, "snapshot some layer head"]
    head_direct: Float[np.ndarray, "snapshot some layer head"]
    head_ablation: Float[np.ndarray, "snapshot some layer head"]
    moved: Float[np.ndarray, "snapshot pair layer"]
    distance: Float[np.ndarray, "snapshot pair depth"]

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def unsafe(self) -> Bool[np.ndarray, " prompt"]:
        """The truth."""
        return np.array(self.probe.unsafe)

    @property
    def groups(self) -> Int[np.ndarray, " prompt"]:
        """Texts of one group are resampled together."""
        return np.array(self.probe.groups)

    @property
    def pair_groups(self) -> Int[np.ndarray, " pair"]:
        """The same of the pairs."""
        return np.array([pair.group for pair in self.probe.pairs], dtype=int)

    @property
    def head_rows(self) -> Int[np.ndarray, " some"]:
        """The texts on which heads were measured."""
        return np.array(self.probe.alternating(self.head_direct.shape[1]), dtype=int)

    @property
    def overhead(self) -> float:
        """Time spent on watching as a share of the training's; nan where nothing was trained meanwhile."""
        trained = float(np.nansum(self.training))
        return float(np.nansum(self.seconds)) / trained if trained > 0 else float("nan")

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.attention.shape[2])


class RecordWriter:
    """Appends snapshots to the records of a folder, which may hold earlier ones of the same probe and judge."""

    def __init__(
        self, out: Path | str, probe: Probe, about: Mapping[str, Any], pieces: Sequence[Sequence[str]]
    ) -> None:
        self.out = make_folder(out)
        header = {"format": FORMAT, "probe": probe.as_dict(), "about": dict(about), "pieces": [*map(list, pieces)]}
        self._path = self.out / RECORDS
        if self._path.exists() and self._path.stat().st_size:
            found = _header(self.out)
            same = [found["probe"], found["pieces"], *(found["about"].get(key) for key in _FIXED)]
            if same != [header["probe"], header["pieces"], *(header["about"].get(key) for key in _FIXED)]:
                raise DataError(
                    f"{self.out} holds the recording of another judge or of other texts; choose another folder"
                )
            self._drop_torn()
        write_json(self.out / PROBE, header)

    @property
    def steps(self) -> set[int]:
        """Steps that are recorded already."""
        return {int(row["step"]) for row in _rows(self._path)} if self._path.exists() else set()

    def append(
        self,
        found: Snapshot,
        *,
        step: int,
        seconds: float,
        training: float,
        mark: str = "",
        skipped: int = 0,
        loss: float | None = None,
        learning_rate: float | None = None,
    ) -> None:
        """Write one line and wait until it is on the disk. `mark` tells these weights apart from others."""
        row: dict[str, Any] = {
            "step": step, "loss": _number(loss), "learning_rate": _number(learning_rate), "seconds": _number(seconds),
            "training": _number(training), "skipped": skipped, "mark": mark,
        }  # fmt: skip
        for one in fields(found):
            value = getattr(found, one.name)
            row[one.name] = [_plain(part) for part in value] if isinstance(value, tuple) else _plain(value)
        line = json.dumps(row, separators=(",", ":"), allow_nan=False) + "\n"
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"cannot write {self._path}: {error.strerror or error}; choose another folder") from error

    def check(self, step: int, mark: str) -> None:
        """Raise DataError where this step was recorded from other weights."""
        known = next((row.get("mark") for row in _rows(self._path) if row["step"] == step), None)
        if known and known != mark:
            raise DataError(f"{self.out} holds step {step} of another training; choose another folder")

    def drop_after(self, step: int) -> None:
        """Forget the snapshots after a step at which training is taken up again."""
        rows = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        kept = [row for row in rows if json.loads(row)["step"] <= step]
        if len(kept) < len(rows):
            write_text(self._path, b"".join(kept).decode())

    def _drop_torn(self) -> None:
        """Cut off a last line that was not written to its end, so that the next one begins a line."""
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self._path.open("r+b") as file:
                file.truncate(whole)


_FIXED = (
    "template", "safe", "unsafe", "layers", "heads", "parameters", "model", "method", "neutral", "head_texts",
)  # fmt: skip
"""What must not change within a recording."""


def is_recording(folder: Path | str) -> bool:
    """Whether a folder holds records."""
    return (Path(folder) / PROBE).is_file() and (Path(folder) / RECORDS).is_file()


def read_records(out: Path | str) -> Recording:
    """All snapshots of a folder, also of a training that still runs. Of two at one step the later one counts.

    Raises DataError where there are none, or where something other than the end of the last line is damaged.
    """
    out = Path(out)
    header = _header(out)
    rows = list({int(row["step"]): row for row in _rows(out / RECORDS)}.values())
    if not rows:
        raise DataError(f"{out / RECORDS} holds no snapshot yet")
    rows.sort(key=lambda row: row["step"])
    about = header["about"]
    layers, heads = int(about["layers"]), int(about["heads"])
    probe = Probe.from_dict(header["probe"])
    shapes = {
        "log_odds": (-1,), "attention": (-1, layers), "mlp": (-1, layers), "separation": (-1, layers + 1),
        "unexplained": (-1,), "moved": (-1, layers), "distance": (-1, layers + 1),
        **dict.fromkeys(("head_attention", "head_direct", "head_ablation"), (-1, layers, heads)),
    }  # fmt: skip
    try:
        return Recording(
            probe, about, tuple(map(tuple, header["pieces"])),
            **{name: np.array([row[name] for row in rows], dtype=int) for name in ("steps", "skipped")},
            **{name: _array([row[name] for row in rows]) for name in ("loss", "learning_rate", "seconds", "training")},
            **{
                name: np.stack([_array(row[name]).reshape(_known(row[name], shape)) for row in rows])
                for name, shape in shapes.items()
            },
            tokens=tuple(
                np.stack([_array(row["tokens"][i]) for row in rows]) for i in range(len(header["pieces"]))
            ),
        )  # fmt: skip
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise DataError(f"{out / RECORDS} does not fit {out / PROBE}: {error}; record anew") from error


def _known(content: Sequence[Any], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with the number of prompts, which reshaping cannot tell where it is 0."""
    return (len(content), *shape[1:])


def _header(out: Path) -> dict[str, Any]:
    found = read_json(out / PROBE)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f"{out / PROBE} is no header of a recording of format {FORMAT}")
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    found = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line break was cut off
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError("it has no step")
        except ValueError as error:
            raise DataError(f"{path}, line {number}, is damaged: {error}; remove that line") from error
        row["steps"] = row["step"]
        found.append(row)
    return found


def _array(values: Any) -> Float[np.ndarray, "*axis"]:
    return np.array(values, dtype=float)  # None becomes nan


def _plain(tensor: Tensor) -> Any:
    """Nested lists of what `_number` gives."""
    table = tensor.detach().double().cpu()
    flat = zip(table.flatten().tolist(), table.isfinite().flatten().tolist(), strict=True)
    short = [float(f"{value:.4g}") if finite else None for value, finite in flat]
    return np.array(short, dtype=object).reshape(table.shape).tolist()


def _number(value: float | None) -> float | None:
    """Four significant digits; None for what is undefined."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return None
    return float(f"{value:.4g}")
