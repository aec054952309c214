"""Requests that a model should refuse, each beside two that it should not: what makes a request harmful?

`data/safety_prompts.jsonl` holds 136 triples: a harmful request; its *safe contrast*, a legal request with the same
focus words; and a *benign act* on the same object, since equal words alone do not take away what merely names the
object. Requests only: there are no answers and no instructions. Other sets come as CSV or JSONL with the names of their
columns as options; XSTest (Röttger et al., arXiv 2308.01263) pairs row by row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from interp.datasets.labelled import rows_of
from interp.errors import DataError
from interp.files import data_dir, read_jsonl

Expected = Literal["refuse", "comply"]
Severity = Literal["severe", "moderate", "none"]
Kind = Literal["harmful", "safe_contrast", "benign_act"]
CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "harmful_content": ("weapons", "self_harm", "violence", "hate", "illegal_acts"),
    "manipulation": ("psychological", "coercion", "exploitation"),
    "power_seeking": ("acquisition", "control", "dominance"),
    "deception": ("fraud", "misrepresentation", "disinformation"),
}
"""Subcategories of each category."""
FEWEST: Mapping[str, int] = {"harmful_content": 41, "manipulation": 29, "power_seeking": 26, "deception": 40}
"""Triples that the shipped benchmark has at least."""
_FIELDS = ("id", "pair", "category", "subcategory", "expected", "severity", "why", "focus", "text")


@dataclass(frozen=True)
class SafetyRequest:
    """One request of the benchmark."""

    id: str
    pair: str
    """The triple that it belongs to."""
    category: str
    """That of the triple, whichever of the three it is."""
    kind: Kind
    subcategory: str
    expected: Expected
    severity: Severity
    """Of the harm that is asked for."""
    why: str
    focus: tuple[str, ...]
    """The words that a triple turns on: the act, then the object."""
    text: str


@dataclass(frozen=True)
class Triple:
    """A harmful request and its two contrasts."""

    harmful: SafetyRequest
    safe: SafetyRequest
    benign: SafetyRequest


@dataclass(frozen=True)
class AlignedPair:
    """A harmful text and a safe one that shares its words."""

    kind: str
    harmful: str
    safe: str


def safety_triples(path: Path | str | None = None, *, categories: Sequence[str] | None = None) -> list[Triple]:
    """The shipped benchmark, or one's own file of that form, checked. Raises DataError with the first fault."""
    file = data_dir() / "safety_prompts.jsonl" if path is None else Path(path)
    requests = [_request(row, f"{file}, row {number}") for number, row in enumerate(read_jsonl(file), 1)]
    faults = faults_of(requests)
    if faults:
        raise DataError(f"{file}: {faults[0]}" + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""))
    found = _triples(requests)
    if categories is None:
        return found
    unknown = set(categories) - {one.harmful.category for one in found}
    if unknown or not categories:
        named = ", ".join(dict.fromkeys(one.harmful.category for one in found))
        raise DataError(f"there is no category {min(unknown, default='')!r}; there are {named}")
    return [one for one in found if one.harmful.category in categories]


def faults_of(requests: Iterable[SafetyRequest]) -> list[str]:
    """What is wrong with a benchmark, in sentences; empty where nothing is.

    Each triple has one request of each kind, one category and the same focus words; these stand in the harmful request
    and in its safe contrast, the object alone in the benign act; what is expected and how severe it is fit the kind;
    nothing comes twice.
    """
    requests = list(requests)
    found = [f"{name} comes twice" for name, count in Counter(one.id for one in requests).items() if count > 1]
    found += [f"{text!r} comes twice" for text, count in Counter(one.text for one in requests).items() if count > 1]
    pairs: dict[str, list[SafetyRequest]] = {}
    for one in requests:
        pairs.setdefault(one.pair, []).append(one)
        found += _alone(one)
    for pair, members in pairs.items():
        if sorted(one.kind for one in members) != sorted(get_args(Kind)):
            found.append(f"{pair} has {', '.join(one.kind for one in members)}; it needs one of each kind")
        for name in ("category", "subcategory", "focus"):
            if len({getattr(one, name) for one in members}) > 1:
                found.append(f"the requests of {pair} differ in {name}")
    return found


def short_of(triples: Sequence[Triple]) -> dict[str, int]:
    """Categories with fewer triples than the benchmark promises, and how many are missing."""
    count = Counter(one.harmful.category for one in triples)
    return {name: least - count[name] for name, least in FEWEST.items() if count[name] < least}


def aligned_pairs(
    path: Path | str, *, text: str = "prompt", kind: str = "type", contrast: str = "contrast_"
) -> list[AlignedPair]:
    """Pairs of a table whose kinds X and `contrast_X` stand row by row beside each other, as in XSTest.

    Kinds without a contrast are left out. Raises DataError for a missing column, or where the two have unequal numbers.
    """
    rows: dict[str, list[str]] = {}
    for line, row in rows_of(Path(path)):
        for name in (text, kind):
            if not isinstance(row.get(name), str) or not row[name].strip():
                raise DataError(
                    f"{path}, line {line}: the column {name!r} is missing or empty; there are {', '.join(row)}"
                )
        rows.setdefault(row[kind], []).append(row[text])
    found = []
    for name, safe in rows.items():
        harmful = rows.get(contrast + name)
        if harmful is None:
            continue
        if len(safe) != len(harmful):
            raise DataError(f"{path}: {len(safe)} rows of {name} do not fit {len(harmful)} of {contrast}{name}")
        found += [AlignedPair(name, *both) for both in zip(harmful, safe, strict=True)]
    if not found:
        raise DataError(f"{path} has no kind {contrast}... beside its own")
    return found


def _request(row: Mapping[str, Any], where: str) -> SafetyRequest:
    missing = [name for name in _FIELDS if name not in row]
    if missing:
        raise DataError(f"{where}: there is no {missing[0]!r}; a row has {', '.join(_FIELDS)}")
    for name in _FIELDS:
        wanted = list if name == "focus" else str
        if not isinstance(row[name], wanted) or not row[name] or (wanted is list and not all(map(_is_word, row[name]))):
            raise DataError(f"{where}: {name!r} should be {'a list of words' if wanted is list else 'a text'}")
    category, kind = str(row["category"]), "harmful"
    for contrast in ("safe_contrast", "benign_act"):
        if category.endswith("_" + contrast):
            category, kind = category.removesuffix("_" + contrast), contrast
    rest = {name: row[name] for name in _FIELDS if name not in ("category", "focus")}
    return SafetyRequest(category=category, kind=kind, focus=tuple(row["focus"]), **rest)  # pyright: ignore[reportArgumentType]


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _alone(one: SafetyRequest) -> list[str]:
    """Faults that a request has by itself."""
    found = []
    if one.category not in CATEGORIES:
        return [f"{one.id} is of an unknown category, {one.category}"]
    if one.subcategory not in CATEGORIES[one.category]:
        found.append(f"{one.id} is of an unknown subcategory, {one.subcategory}")
    harmful = one.kind == "harmful"
    if one.expected != ("refuse" if harmful else "comply"):
        found.append(f"{one.id} is {one.kind} and expects {one.expected}")
    if one.severity not in (("severe", "moderate") if harmful else ("none",)):
        found.append(f"{one.id} is {one.kind} and of severity {one.severity}")
    words = set(re.findall(r"[\w'-]+", one.text.lower()))
    has = [word for word in one.focus if word.lower() in words]
    wanted = one.focus[-1:] if one.kind == "benign_act" else one.focus
    if tuple(has) != tuple(wanted):
        found.append(
            f"{one.id} should have the focus words {', '.join(wanted)} alone and has {', '.join(has) or 'none'}"
        )
    return found


def _triples(requests: Iterable[SafetyRequest]) -> list[Triple]:
    pairs: dict[str, dict[str, SafetyRequest]] = {}
    for one in requests:
        pairs.setdefault(one.pair, {})[one.kind] = one
    return [Triple(one["harmful"], one["safe_contrast"], one["benign_act"]) for one in pairs.values()]
