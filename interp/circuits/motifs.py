"""Which connected sets of edges return from prompt to prompt?

Sets are grown edge by edge: what is frequent has only frequent parts (Apriori; Agrawal & Srikant, VLDB 1994, 487; for
connected parts of graphs Kuramochi & Karypis, ICDM 2001, 313). A node is a feature of a layer or an answer's token,
wherever it stands, so a set needs no isomorphism: a prompt has all of its edges, each with its sign, or it has not.

What returns need not matter: `motif_contrast` asks what tells two kinds of prompts apart, an intervention what is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Shaped
from numpy.typing import NDArray

from interp.circuits.wiring import FEATURE, LOGIT, Wiring, numbered
from interp.errors import ConfigError
from interp.estimates import Estimate, proportion

Groups = Sequence[int] | Int[np.ndarray, " prompt"]
Words = Mapping[int, str]
"""Texts of tokens, by id."""

_CANDIDATES = 200_000
"""Sets that are tried at once."""
_BITS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


@dataclass(frozen=True, eq=False)
class EdgeSets:
    """Connected sets of edges among features and from features to logits, and which prompts have them."""

    edges: Int[np.ndarray, "edge six"]
    """Source's layer and number, target's kind, layer and number, and the sign (1 or -1)."""
    sets: Int[np.ndarray, "set slot"]
    """Edges of each set, -1 where it has fewer; the larger sets last."""
    present: Bool[np.ndarray, "prompt set"]
    categories: tuple[str, ...]
    """Of each prompt; "" where it had no part in the search."""
    support: float
    """Least share of the prompts of some category that have each set."""
    left_out: int
    """Sets that met the support and were not kept, for the bound on their number; what would have grown from them was
    not seen at all. 0: all are here."""

    def shares(self, category: str, groups: Groups | None = None) -> Estimate:
        """Share of a category's prompts that have each set, with Wilson's interval over prompts, or over groups.

        These prompts chose the sets, so the largest shares are too large; prompts of category "" have not.
        """
        chosen = np.array([one == category for one in self.categories], dtype=bool)
        if not chosen.any():
            raise ConfigError(f"no prompt is of the category {category!r}; there are {sorted(set(self.categories))}")
        return proportion(self.present[chosen], None if groups is None else np.asarray(groups)[chosen])

    def closed(self) -> Bool[np.ndarray, " set"]:
        """Sets that no edge can be added to with the same prompts (among these sets): those worth listing."""
        bits = np.packbits(self.present.T, axis=1)
        own = [tuple(i for i in row if i >= 0) for row in self.sets.tolist()]
        place = {edges: at for at, edges in enumerate(own)}
        found = np.ones(len(own), bool)
        for at, edges in enumerate(own):
            for i in range(len(edges)):
                part = place.get(edges[:i] + edges[i + 1 :])
                if part is not None and (bits[part] == bits[at]).all():
                    found[part] = False
        return found

    def text(self, index: int, words: Words | None = None) -> str:
        """A set in one line: `L0_F12 -> L2_F7 (+), L2_F7 -> sorry (+)`."""
        return ", ".join(self._edge(i, words or {}) for i in self.sets[index].tolist() if i >= 0)

    def sentence(self, index: int, category: str, words: Words | None = None, groups: Groups | None = None) -> str:
        """A set and its share of a category's prompts."""
        return sentence(self.text(index, words), [(self.shares(category, groups)[index], f"{category} prompts")], True)

    def to_frame(self) -> pd.DataFrame:
        """One row for each set and category, the empty category included."""
        names = [self.text(i) for i in range(len(self.sets))]
        frame = pd.DataFrame({"motif": names, "edges": (self.sets >= 0).sum(1), "closed": self.closed()})
        parts = []
        for category in dict.fromkeys(self.categories):
            found = self.shares(category)
            numbers = {"share": found.value, "low": found.low, "high": found.high, "prompts": found.n}
            parts.append(frame.assign(category=category, **numbers))
        return pd.concat(parts, ignore_index=True)

    def _edge(self, edge: int, words: Words) -> str:
        layer, number, kind, above, other, sign = self.edges[edge].tolist()
        target = words.get(other, f"token {other}") if kind == LOGIT else f"L{above}_F{other}"
        return f"L{layer}_F{number} -> {target} ({'+' if sign > 0 else '-'})"


def edge_sets(
    wiring: Wiring,
    *,
    support: float = 0.2,
    size: int = 3,
    categories: Sequence[str] | None = None,
    most: int = 5000,
) -> EdgeSets:
    """Connected sets of at most `size` edges that at least `support` of the prompts of some category have.

    `categories` names that of each prompt (default: all are of one, "all"); "" takes no part in the search, and its
    prompts are looked up all the same. Of each size the `most` with the largest share are kept; `left_out` says
    whether that cut anything.
    """
    if not 0 < support <= 1 or size < 1 or most < 1:
        raise ConfigError("a support is a share above 0 and at most 1, and `size` and `most` are at least 1")
    names = tuple(["all"] * wiring.n_prompts if categories is None else categories)
    if len(names) != wiring.n_prompts:
        raise ConfigError(f"{len(names)} categories do not fit {wiring.n_prompts} prompts")
    if not any(names):
        raise ConfigError("no prompt has a category, so that there is nothing to search")
    edges, ends, present = _keyed(wiring)
    search = _Search(np.array(names), support, most)
    single = np.arange(len(edges))[:, None]
    sets, bits = search.kept(single, np.packbits(present, axis=1))
    every, found = [sets], [bits]
    alone, alone_bits = sets[:, 0], bits
    for _ in range(1, size):
        if not len(sets):
            break
        sets, bits = search.grown(sets, bits, alone, alone_bits, ends)
        every.append(sets)
        found.append(bits)
    table = np.concatenate([np.pad(s, ((0, 0), (0, size - s.shape[1])), constant_values=-1) for s in every])
    there = np.unpackbits(np.concatenate(found), axis=1, count=wiring.n_prompts).view(bool)
    used = np.unique(table[table >= 0])
    new = np.full(len(edges) + 1, -1)  # the last is that of -1
    new[used] = np.arange(len(used))
    return EdgeSets(edges[used], new[table], np.ascontiguousarray(there.T), names, float(support), search.left_out)


def _keyed(
    wiring: Wiring,
) -> tuple[Int[np.ndarray, "edge six"], Int[np.ndarray, "edge two"], Bool[np.ndarray, "edge prompt"]]:
    """Edges out of features that differ in their nodes or sign; the numbers of their nodes; prompts that have each."""
    chosen = np.flatnonzero(wiring.kind[wiring.source] == FEATURE)
    a, b = wiring.source[chosen], wiring.target[chosen]
    sign = np.where(wiring.negative[chosen], -1, 1)
    node = numbered(wiring.kind, wiring.layer, wiring.number)[1]
    first, edge = numbered(node[a], node[b], sign)
    columns = (
        wiring.layer[a], wiring.number[a], wiring.kind[b], wiring.layer[b], wiring.number[b], sign,
    )  # fmt: skip
    table = np.stack([column[first].astype(np.int64) for column in columns], 1)
    present = np.zeros((len(first), wiring.n_prompts), bool)
    present[edge, wiring.prompt[a]] = True
    return table, np.stack([node[a[first]], node[b[first]]], 1), present


class _Search:
    """Growing sets, and the bound on how many are kept."""

    def __init__(self, names: Shaped[np.ndarray, " prompt"], support: float, most: int):
        kinds = [one for one in np.unique(names) if one]
        self.masks = [np.packbits(names == one) for one in kinds]
        self.sizes = np.array([(names == one).sum() for one in kinds])
        self.support, self.most, self.left_out = support, most, 0

    def _share(self, bits: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Largest share of a category that has each set."""
        counts = np.stack([_BITS[bits & mask].sum(1, dtype=np.int64) for mask in self.masks])
        return (counts / self.sizes[:, None]).max(0)

    def kept(
        self, sets: Int[np.ndarray, "set slot"], bits: NDArray[np.uint8]
    ) -> tuple[Int[np.ndarray, "some slot"], NDArray[np.uint8]]:
        """Those frequent enough, the most frequent first where there are too many; the rest is counted."""
        share = self._share(bits)
        enough = np.flatnonzero(share >= self.support - 1e-12)
        order = enough[np.argsort(-share[enough], kind="stable")]
        self.left_out += max(0, len(order) - self.most)
        order = np.sort(order[: self.most])
        return sets[order], bits[order]

    def grown(
        self,
        sets: Int[np.ndarray, "set slot"],
        bits: NDArray[np.uint8],
        alone: Int[np.ndarray, " frequent"],
        alone_bits: NDArray[np.uint8],
        ends: Int[np.ndarray, "edge two"],
    ) -> tuple[Int[np.ndarray, "more slots"], NDArray[np.uint8]]:
        """Sets with one edge more: one that is frequent by itself and meets the set in a node.

        None is missed: every connected set has an edge without which it is connected still.
        """
        at = ends[alone].ravel()  # node of each end of each frequent edge
        order = np.argsort(at, kind="stable")
        nodes, first, count = np.unique(at[order], return_index=True, return_counts=True)
        met = ends[sets].reshape(len(sets), -1)
        place = np.searchsorted(nodes, met)
        degree = count[place].sum(1)
        more, more_bits = [], []
        bounds = np.searchsorted(np.cumsum(degree), np.arange(0, degree.sum() + _CANDIDATES, _CANDIDATES), "right")
        for low, high in zip(np.unique(bounds)[:-1], np.unique(bounds)[1:], strict=True):
            here = place[low:high]
            many = count[here].ravel()
            own = np.repeat(np.repeat(np.arange(low, high), here.shape[1]), many)
            step = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
            edge = order[np.repeat(first[here].ravel(), many) + step] // 2
            fresh = (sets[own] != alone[edge][:, None]).all(1)
            own, edge = own[fresh], edge[fresh]
            both = bits[own] & alone_bits[edge]
            enough = self._share(both) >= self.support - 1e-12
            wide = np.sort(np.concatenate([sets[own[enough]], alone[edge[enough]][:, None]], 1), axis=1)
            distinct = numbered(*wide.T)[0]
            more.append(wide[distinct])
            more_bits.append(both[enough][distinct])
        wide, both = np.concatenate(more), np.concatenate(more_bits)
        distinct = numbered(*wide.T)[0]
        return self.kept(wide[distinct], both[distinct])


def sentence(text: str, parts: Sequence[tuple[Estimate, str]], shares: bool) -> str:
    """`text: in 61 % [48, 72] of these, 12 % [5, 24] of those`, or counts with theirs."""
    told = []
    for found, name in parts:
        numbers = [float(x) for x in (found.value, found.low, found.high)]
        if shares:
            value, low, high = (f"{100 * x:.0f}" for x in numbers)
            told.append(f"{value} % [{low}, {high}] of {name}")
        else:
            value, low, high = (f"{x:.2g}" for x in numbers)
            told.append(f"{value} [{low}, {high}] in each of {name}")
    return f"{text}: {'in ' if shares else ''}{', '.join(told)}"
