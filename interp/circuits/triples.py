"""Which prompts belong together, and which pairs may be looked at when.

A harmful request, its safe contrast and its benign act are one *triple*; triples are the independent units. They are
dealt once into three parts: features are *discovered* on the first, *confirmed* on the second, and changed in the model
on the third (*causal*), so that no test is made on prompts that chose what is tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int

from interp.datasets.safety import Triple
from interp.errors import ConfigError, PromptError
from interp.prompts import Prompts

KINDS = ("harmful", "safe_contrast", "benign_act")
PARTS = ("discovery", "confirmation", "causal")
SHARES = (0.25, 0.5, 0.25)
"""Of each category: a confirmation half of 26 to 41 triples holds 13 to 20."""


@dataclass(frozen=True, eq=False)
class Triples:
    """Rows of a set of prompts, triple by triple."""

    pairs: tuple[str, ...]
    """Name of each triple."""
    categories: tuple[str, ...]
    rows: Int[np.ndarray, "triple kind"]
    """Number of the prompt of each kind, in the order of `KINDS`."""
    part: Int[np.ndarray, " triple"]
    """0, 1 or 2, in the order of `PARTS`."""

    def chosen(self, category: str | None = None, part: str | None = None) -> Bool[np.ndarray, " triple"]:
        """Triples of a category (None: of all) and of a part (None: of all). Raises ConfigError for an unknown one."""
        if category is not None and category not in self.categories:
            raise ConfigError(f"there is no category {category!r}; there are {', '.join(sorted(set(self.categories)))}")
        if part is not None and part not in PARTS:
            raise ConfigError(f"the parts are {', '.join(PARTS)}, not {part!r}")
        found = np.ones(len(self.pairs), bool)
        if category is not None:
            found &= np.array([one == category for one in self.categories])
        return found & (self.part == PARTS.index(part)) if part is not None else found

    def prompts(self, kind: str, category: str | None = None, part: str | None = None) -> Int[np.ndarray, " row"]:
        """Rows of the prompts of a kind."""
        if kind not in KINDS:
            raise ConfigError(f"the kinds are {', '.join(KINDS)}, not {kind!r}")
        return self.rows[self.chosen(category, part), KINDS.index(kind)]

    def groups(self) -> dict[str, Int[np.ndarray, " row"]]:
        """Rows of every group that features are described in: `deception`, `deception_safe_contrast`, ..."""
        names = dict.fromkeys(self.categories)
        return {f"{name}{'' if kind == KINDS[0] else f'_{kind}'}": self.prompts(kind, name)
                for name in names for kind in KINDS}  # fmt: skip


def benchmark_prompts(triples: Sequence[Triple], tokenizer: Any, *, template: str = "{prompt}") -> Prompts:
    """The requests of triples, kind by kind beside each other, as `template` asks them; read at the last token.

    Labels are `id`, `pair`, `category`, `kind` and `subcategory`; prompts of one triple are one group.
    """
    requests = [one for triple in triples for one in (triple.harmful, triple.safe, triple.benign)]
    if not requests:
        raise PromptError("there are no triples; widen the choice of categories")
    labels = pd.DataFrame(
        {name: [getattr(one, name) for one in requests] for name in ("id", "pair", "category", "kind", "subcategory")}
    )
    groups = torch.arange(len(triples)).repeat_interleave(len(KINDS))
    texts = [template.replace("{prompt}", one.text) for one in requests]
    return Prompts.from_texts(texts, tokenizer, labels=labels, groups=groups)


def triples_of(prompts: Prompts, *, shares: Sequence[float] = SHARES, seed: int = 0) -> Triples:
    """The triples of prompts with labels `pair`, `category` and `kind`, dealt into three parts.

    Within each category the parts get these shares, rounded down for confirmation and causal, the rest is discovery's;
    where there is a label `subcategory`, each part gets its subcategories in about their proportion. The deal depends
    on the names of the triples and on the seed alone, and a category's on its own triples. Raises PromptError where a
    triple lacks a kind or has one twice.
    """
    if len(shares) != len(PARTS) or min(shares) < 0 or not np.isclose(sum(shares), 1):
        raise ConfigError(f"shares are of {', '.join(PARTS)} and sum to 1, not {tuple(shares)}")
    labels = prompts.labels
    missing = [name for name in ("pair", "category", "kind") if name not in labels]
    if missing:
        raise PromptError(f"the prompts have no label {missing[0]!r}, so that triples cannot be told")
    found: dict[str, dict[str, int]] = {}
    category: dict[str, str] = {}
    beneath: dict[str, str] = {}
    finer = labels["subcategory"] if "subcategory" in labels else [""] * len(labels)
    columns = zip(labels["pair"], labels["category"], labels["kind"], finer, strict=True)
    for row, (pair, name, kind, sub) in enumerate(columns):
        if kind not in KINDS or kind in found.setdefault(str(pair), {}):
            raise PromptError(f"the triple {pair} has the kind {kind!r} twice, or there is no such kind")
        if category.setdefault(str(pair), str(name)) != name:
            raise PromptError(f"the triple {pair} is of the categories {category[str(pair)]} and {name}")
        found[str(pair)][kind], beneath[str(pair)] = row, str(sub)
    short = next((pair for pair, rows in found.items() if len(rows) < len(KINDS)), None)
    if short is not None:
        raise PromptError(f"the triple {short} has {', '.join(found[short])} alone; it needs one of each kind")
    part = _dealt(category, beneath, shares, seed)
    rows = np.array([[members[kind] for kind in KINDS] for members in found.values()])
    return Triples(tuple(found), tuple(category[pair] for pair in found), rows, np.array([part[p] for p in found]))


def _dealt(
    category: Mapping[str, str], beneath: Mapping[str, str], shares: Sequence[float], seed: int
) -> dict[str, int]:
    part: dict[str, int] = {}
    for name in dict.fromkeys(category.values()):
        members = sorted(pair for pair, own in category.items() if own == name)
        rng = np.random.default_rng([seed, *name.encode()])
        mixed = [members[i] for i in rng.permutation(len(members))]
        mixed.sort(key=lambda pair: beneath[pair])
        n = len(mixed)
        wanted = [int(np.floor(share * n + 1e-9)) for share in shares]
        wanted[0] = n - sum(wanted[1:])
        # Along subcategories each part comes at its own pace, so that none has its triples all in one place.
        pace = sorted(((i + rng.random()) / count, at) for at, count in enumerate(wanted) for i in range(count))
        part |= {pair: at for pair, (_, at) in zip(mixed, pace, strict=True)}
    return part
