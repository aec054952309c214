"""Texts labelled safe or unsafe by others, from CSV or JSONL: what of requests that nobody here wrote?

The columns and the values of the label are options, so that sets such as XSTest (Röttger et al., arXiv 2308.01263)
are read as they come. A label that is neither safe nor unsafe is an error, never a guess.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import ConfigError, DataError
from interp.files import read_jsonl, read_text
from interp.twins import group_numbers

UNSAFE = ("unsafe", "1", "true", "harmful")
SAFE = ("safe", "0", "false", "harmless")


@dataclass(frozen=True, eq=False)
class LabelledTexts:
    """Texts with the verdict that is right."""

    texts: tuple[str, ...]
    unsafe: tuple[bool, ...]
    categories: tuple[str, ...]
    """What each text is of; "all" without a column."""
    groups: Int[Tensor, " text"]
    """Texts of one group are not independent; without a column each is its own."""

    def __len__(self) -> int:
        return len(self.texts)


def read_labelled(
    path: Path | str,
    *,
    text: str = "text",
    label: str = "label",
    category: str | None = None,
    group: str | None = None,
    unsafe: Sequence[str] = UNSAFE,
    safe: Sequence[str] = SAFE,
) -> LabelledTexts:
    """Read a table with a row for each text; the options name its columns and the values of the label.

    Values are compared without regard to case and blanks around them. Raises DataError for a file that is missing or
    neither CSV nor JSONL, a missing column, an empty text, or a label in neither list, with the line.
    """
    meant = {_plain(value): True for value in unsafe} | {_plain(value): False for value in safe}
    both = sorted({_plain(value) for value in unsafe} & {_plain(value) for value in safe})
    if both:
        raise ConfigError(f"the label {both[0]!r} cannot mean both safe and unsafe")
    path = Path(path)
    columns = [name for name in (text, label, category, group) if name is not None]
    texts: list[str] = []
    verdicts: list[bool] = []
    named: dict[str, list[str]] = {name: [] for name in (category, group) if name is not None}
    for line, row in rows_of(path):
        where = f"{path}, line {line}"
        for name in columns:
            if name not in row:
                raise DataError(f"{where}: there is no column {name!r}; there are {', '.join(row)}")
        if not isinstance(row[text], str):
            raise DataError(f"{where}: {text!r} is {type(row[text]).__name__}, not a text")
        if not row[text].strip():
            raise DataError(f"{where}: {text!r} is empty; give it some text")
        value = _plain(row[label])
        if value not in meant:
            lists = f"unsafe: {', '.join(unsafe)}; safe: {', '.join(safe)}"
            raise DataError(f"{where}: the label {row[label]!r} is neither safe nor unsafe ({lists})")
        texts.append(row[text])
        verdicts.append(meant[value])
        for name, values in named.items():
            values.append(str(row[name]))
    return LabelledTexts(
        tuple(texts), tuple(verdicts),
        ("all",) * len(texts) if category is None else tuple(named[category]),
        torch.arange(len(texts)) if group is None else group_numbers(named[group]),
    )  # fmt: skip


def _plain(value: Any) -> str:
    return str(value).strip().lower()


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows with the lines on which they begin."""
    kind = path.suffix.lower()
    if kind == ".csv":
        yield from _csv(path)
    elif kind == ".jsonl":
        lines = [number for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
        yield from zip(lines, read_jsonl(path), strict=True)
    else:
        raise DataError(f"{path} is neither .csv nor .jsonl; labelled texts come as one of them")


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(read_text(path).removeprefix("\ufeff")), strict=True)
    names: list[str] = []
    line = 1
    rows = 0
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if not any(cells):
                continue
            if not names:
                names = [name.strip() for name in cells]
                continue
            if len(cells) != len(names):
                raise DataError(f"{path}, line {start}: {len(cells)} cells under {len(names)} columns")
            rows += 1
            yield start, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}") from error
    if not rows:
        raise DataError(f"{path} is empty: there is no row under its columns" if names else f"{path} is empty")
