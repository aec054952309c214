"""The texts that a judge under training is asked again and again: fixed, labelled, the same at every snapshot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from interp.datasets.judging import KINDS, Request, requests, span, turns, twin
from interp.datasets.labelled import LabelledTexts
from interp.errors import PromptError
from interp.models.judge import Spans
from interp.twins import group_numbers


@dataclass(frozen=True)
class Pair:
    """A safe and an unsafe text that differ in little, of equally many tokens."""

    safe: str
    unsafe: str
    group: int
    """Pairs of one group are not independent."""
    changed: str = ""
    """What tells them apart."""


@dataclass(frozen=True, eq=False)
class Probe:
    """Held-out texts with their truth, matched pairs, and which texts' tokens are explained."""

    texts: tuple[str, ...]
    unsafe: tuple[bool, ...]
    groups: tuple[int, ...]
    """Texts of one group (one template) are not independent and are resampled together."""
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further columns, for instance the category: what is learned when is asked for each of their values."""
    spans: tuple[Spans, ...] = ()
    """Words that decide, as spans of characters; empty where they are not known."""
    pairs: tuple[Pair, ...] = ()
    explained: tuple[int, ...] = ()
    """Texts whose tokens are attributed, by their place."""

    def __post_init__(self) -> None:
        n = len(self.texts)
        if not n:
            raise PromptError("there are no texts to ask the judge; give at least one")
        for name, column in {"labels": self.unsafe, "groups": self.groups, **self.labels}.items():
            if len(column) != n:
                raise PromptError(f"{len(column)} {name} do not fit {n} texts")
        if self.spans and len(self.spans) != n:
            raise PromptError(f"{len(self.spans)} spans do not fit {n} texts")
        if len(set(self.unsafe)) < 2:
            raise PromptError("the texts are all safe or all unsafe; give both")
        beyond = next((i for i in self.explained if not 0 <= i < n), None)
        if beyond is not None:
            raise PromptError(f"there is no text {beyond} to explain; there are {n}")

    @property
    def digest(self) -> str:
        """Hash of everything in it."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def alternating(self, count: int) -> tuple[int, ...]:
        """So many of the texts, unsafe and safe in turn as far as there are both."""
        sides = [[i for i, one in enumerate(self.unsafe) if one is side] for side in (True, False)]
        return tuple(i for depth in range(len(self.texts)) for side in sides for i in side[depth : depth + 1])[:count]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return {
            "texts": list(self.texts), "unsafe": list(self.unsafe), "groups": list(self.groups),
            "labels": {name: list(column) for name, column in self.labels.items()},
            "spans": [{role: list(span) for role, span in one.items()} for one in self.spans],
            "pairs": [asdict(pair) for pair in self.pairs], "explained": list(self.explained),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Probe:
        """From what `as_dict` gave."""
        return cls(
            tuple(found["texts"]), tuple(found["unsafe"]), tuple(found["groups"]),
            {name: tuple(column) for name, column in found["labels"].items()},
            tuple({role: (span[0], span[1]) for role, span in one.items()} for one in found["spans"]),
            tuple(Pair(**pair) for pair in found["pairs"]), tuple(found["explained"]),
        )  # fmt: skip


def judging_probe(count: int = 256, *, pairs: int = 48, explained: int = 8, seed: int = 5) -> Probe:
    """Fresh requests with a known rule, grouped by template; their pairs differ in one word that turns the verdict."""
    some = requests(count, seed=seed)
    # One text of each kind in turn, so that the explained ones are of all kinds.
    kinds = [[i for i, one in enumerate(some) if one.kind == kind] for kind in KINDS]
    order = [i for depth in range(count) for places in kinds for i in places[depth : depth + 1]]
    return Probe(
        tuple(one.text for one in some), tuple(one.unsafe for one in some),
        tuple(group_numbers([one.template for one in some]).tolist()),
        {"category": tuple(one.category for one in some), "kind": tuple(one.kind for one in some)},
        tuple({role: span(one.text, word) for role, word in one.rule.items()} for one in some),
        judging_pairs(pairs, seed=seed + 1), tuple(order[:explained]),
    )  # fmt: skip


def judging_pairs(count: int, *, seed: int) -> tuple[Pair, ...]:
    """Requests and their twins, the changed word being the act, the object and the context in turn."""
    found: list[tuple[Request, Request, str]] = []
    for one in requests(6 * count + 20, seed=seed):
        wanted = ("act", "object", "context")[len(found) % 3]
        if len(found) < count and wanted in turns(one):
            found.append((one, twin(one, wanted, seed=seed + len(found)), wanted))
    groups = group_numbers([one.template for one, _, _ in found]).tolist() if found else []
    return tuple(
        Pair(*((other.text, one.text) if one.unsafe else (one.text, other.text)), group, changed)
        for (one, other, changed), group in zip(found, groups, strict=True)
    )


def labelled_probe(some: LabelledTexts, *, explained: int = 8) -> Probe:
    """Texts labelled by others; safe and unsafe ones are explained in turn."""
    labels = {"category": some.categories} if len(set(some.categories)) > 1 else {}
    groups = tuple(int(group) for group in some.groups)
    plain = Probe(some.texts, some.unsafe, groups, labels)
    return replace(plain, explained=plain.alternating(explained))
