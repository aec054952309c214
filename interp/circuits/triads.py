"""Which small patterns of three nodes are there more often than wiring at random would make them?

Triads are typed: by their shape, by what the nodes are (token, feature, error, logit), and by the signs of the edges
(network motifs; Milo et al., Science 298 (2002) 824). Shapes are exact: a chain a -> b -> c has no edge a -> c. The
null is `rewired`: degrees stay, within strata of layers and kinds.

Since degrees stay, open triads are not free of closed ones: there are fewer fan-outs and, but for signs, fewer chains
and fan-ins where there are more triangles. A frequent pattern says how edges lie, not what they compute; and positions
are collapsed, so that its edges need not meet at one column.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy import sparse, stats

from interp.circuits.wiring import ERROR, FEATURE, KINDS, LOGIT, TOKEN, Wiring, numbered, rewired
from interp.errors import ConfigError
from interp.estimates import Estimate, mean

Shape = Literal["chain", "fan-out", "fan-in", "triangle"]

_AT_ONCE = 20_000
"""Nodes whose degrees are held at once."""
_LARGEST = 0xFFFF
"""Nodes of a prompt: what joins two of them is counted in sixteen bits."""


@dataclass(frozen=True)
class Triad:
    """A class of triads. Edges are a -> b, b -> c (chain); a -> b, a -> c (fan-out); a -> c, b -> c (fan-in); and
    a -> b, b -> c, a -> c (triangle)."""

    shape: Shape
    kinds: tuple[str, str, str]
    """What a, b and c are."""
    signs: tuple[str, ...]
    """+ or - of the edges, in the order above."""

    @property
    def text(self) -> str:
        """In one line, for instance `token -> feature (+) -> logit (-)`."""
        (a, b, c), s = self.kinds, self.signs
        if self.shape == "fan-out":
            return f"{a} -> {b} ({s[0]}), -> {c} ({s[1]})"
        if self.shape == "fan-in":
            return f"{a} ({s[0]}), {b} ({s[1]}) -> {c}"
        chain = f"{a} -> {b} ({s[0]}) -> {c} ({s[1]})"
        return chain if self.shape == "chain" else f"{chain}, {a} -> {c} ({s[2]})"


# The ten kinds of half-edges at a node: what comes in from a kind by a sign, and what goes out to a kind by a sign.
# `_counted` supposes that tokens, features and errors are the kinds 0, 1 and 2.
_IN = tuple(product((TOKEN, FEATURE, ERROR), (0, 1)))
_OUT = tuple(product((FEATURE, LOGIT), (0, 1)))
_PAIRS = tuple(combinations_with_replacement(range(len(_IN) + len(_OUT)), 2))
_SIGNS = ("+", "-")


def _classes() -> tuple[tuple[Triad, ...], NDArray[np.int64], NDArray[np.int64]]:
    """All classes; of open ones the kind of the middle node and the pair of half-edges there; of triangles how many of
    each open class they hold."""
    found: dict[Triad, tuple[int, int]] = {}

    def triad(shape: Shape, kinds: tuple[int, ...], signs: tuple[int, ...]) -> Triad:
        a, b, c = (KINDS[kind] for kind in kinds)
        return Triad(shape, (a, b, c), tuple(_SIGNS[sign] for sign in signs))

    def opened(x: tuple[int, int], y: tuple[int, int], middle: int, shape: Shape) -> Triad:
        """From the two half-edges at the middle node, the first of the two first."""
        kinds = {"chain": (x[0], middle, y[0]), "fan-out": (middle, x[0], y[0]), "fan-in": (x[0], y[0], middle)}
        return triad(shape, kinds[shape], (x[1], y[1]))

    half = (*_IN, *_OUT)
    for at, (x, y) in enumerate(_PAIRS):
        if y < len(_IN):
            for middle in (FEATURE, LOGIT):
                found[opened(half[x], half[y], middle, "fan-in")] = middle, at
        elif x >= len(_IN):
            for middle in (TOKEN, FEATURE, ERROR):
                found[opened(half[x], half[y], middle, "fan-out")] = middle, at
        else:
            found[opened(half[x], half[y], FEATURE, "chain")] = FEATURE, at
    order = {one: i for i, one in enumerate(found)}
    closed: list[Triad] = []
    held = np.zeros((48, len(order)), np.int64)
    for a, c, *s in product((TOKEN, FEATURE, ERROR), (FEATURE, LOGIT), (0, 1), (0, 1), (0, 1)):
        held_by = held[len(closed)]
        closed.append(triad("triangle", (a, FEATURE, c), tuple(s)))
        out, into = sorted([(FEATURE, s[0]), (c, s[2])]), sorted([(a, s[2]), (FEATURE, s[1])])
        held_by[order[opened((a, s[0]), (c, s[1]), FEATURE, "chain")]] += 1
        held_by[order[opened(out[0], out[1], a, "fan-out")]] += 1
        held_by[order[opened(into[0], into[1], c, "fan-in")]] += 1
    return (*found, *closed), np.array(list(found.values())), held


TRIADS, _MIDDLES, _HELD = _classes()
"""All classes that pruned graphs can have."""


@dataclass(frozen=True, eq=False)
class TriadCounts:
    """How often each class of `TRIADS` occurs in each prompt."""

    counts: Int[np.ndarray, "prompt triad"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt and class that occurs anywhere."""
        there = np.flatnonzero(self.counts.any(0))
        names = _described(there)
        prompts = len(self.counts)
        frame = pd.concat([names] * prompts, ignore_index=True) if prompts else names[:0]
        frame.insert(0, "prompt", np.repeat(np.arange(prompts), len(there)))
        return frame.assign(count=self.counts[:, there].ravel())


@dataclass(frozen=True, eq=False)
class TriadNull:
    """Counts beside those of rewired graphs. Undefined (nan) where no rewired graph differs from another or from the
    graphs themselves: there is nothing to test."""

    counts: Int[np.ndarray, "prompt triad"]
    expected: Float[np.ndarray, "prompt triad"]
    """Mean over rewired copies."""
    null: Int[np.ndarray, "sample triad"]
    """Sum over prompts in each copy."""
    p: Float[np.ndarray, " triad"]
    """Two-sided, of the sum over prompts."""
    q: Float[np.ndarray, " triad"]
    """The same after Benjamini and Hochberg over the classes that were tested."""
    moved: float
    """Share of edges that lead elsewhere in a copy. Small: the degrees leave little choice, and no p is small."""

    def excess(self, groups: NDArray[np.int64] | None = None) -> Estimate:
        """Mean over prompts of the count less what is expected, with an interval over prompts.

        Its p is of prompts drawn anew; `p` above is of edges drawn anew in these prompts.
        """
        return mean(self.counts - self.expected, groups)

    def to_frame(self) -> pd.DataFrame:
        """One row for each class that occurs in the graphs or in a copy."""
        there = np.flatnonzero(self.counts.any(0) | self.null.any(0))
        low, high = np.quantile(self.null[:, there], (0.025, 0.975), axis=0)
        return _described(there).assign(
            count=self.counts.sum(0)[there], expected=self.expected.sum(0)[there], null_low=low, null_high=high,
            p=self.p[there], q=self.q[there], prompts=(self.counts[:, there] > 0).sum(0),
        )  # fmt: skip


def triads(wiring: Wiring) -> TriadCounts:
    """Count all connected sets of three nodes, prompt by prompt."""
    return TriadCounts(_counted(wiring, wiring.target[None])[0])


def triad_null(wiring: Wiring, *, samples: int = 999, swaps: int = 10, seed: int = 0) -> TriadNull:
    """Count triads in the graphs and in rewired copies of them (`rewired`).

    A p value is twice the smaller of (1 + copies with at least as many) and (1 + copies with at most as many), over
    1 + copies. None is below 2 / (1 + samples), so that one class alone of m that are tested reaches a q of 0.05 only
    from 40 m copies on.
    """
    if samples < 39:
        raise ConfigError(f"{samples} rewired copies cannot show a two-sided p of 0.05; use at least 39")
    counts = triads(wiring).counts
    targets = rewired(wiring, samples=samples, swaps=swaps, seed=seed)
    own = counts.sum(0)
    null, expected = np.zeros((samples, len(TRIADS)), np.int64), np.zeros(counts.shape)
    most = max(1, _AT_ONCE // max(1, len(wiring.prompt)))
    for first in range(0, samples, most):
        some = _counted(wiring, targets[first : first + most])
        null[first : first + most] = some.sum(1)
        expected += some.sum(0) / samples
    reached = np.minimum((null >= own).sum(0), (null <= own).sum(0))
    tested = (null != own).any(0)
    p = np.where(tested, np.minimum(1.0, 2 * (1 + reached) / (1 + samples)), np.nan)
    q = p.copy()
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    moved = float((targets != wiring.target).mean()) if len(wiring.target) else float("nan")
    return TriadNull(counts, expected, null, p, q, moved)


def _counted(wiring: Wiring, targets: Int[np.ndarray, "copy edge"]) -> Int[np.ndarray, "copy prompt triad"]:
    """Triads of graphs that differ in where their edges lead."""
    copies, nodes = len(targets), len(wiring.prompt)
    if nodes and np.bincount(wiring.prompt).max() > _LARGEST:
        raise ConfigError(f"triads are counted in graphs of at most {_LARGEST} nodes; prune more")
    found = np.zeros((copies, wiring.n_prompts, len(TRIADS)), np.int64)
    if not targets.size:
        return found
    negative = np.broadcast_to(wiring.negative, targets.shape)
    # Nodes stand by prompt and kind, so that sums over those are sums of slices.
    order = np.lexsort((wiring.kind, wiring.prompt))
    place = np.argsort(order)
    into = wiring.kind[wiring.source] * 2 + negative
    out = len(_IN) + (wiring.kind[targets] == LOGIT) * 2 + negative
    half = np.concatenate([into, out], 1).astype(np.int64)
    ends = np.concatenate([place[targets], np.broadcast_to(place[wiring.source], targets.shape)], 1)
    wide = len(_IN) + len(_OUT)
    cell = (half * copies + np.arange(copies)[:, None]) * nodes + ends
    degrees = np.bincount(cell.ravel(), minlength=wide * copies * nodes).reshape(wide, copies, nodes)
    first, _ = numbered(wiring.prompt[order], wiring.kind[order])
    sums = np.zeros((len(_PAIRS), copies, wiring.n_prompts, len(KINDS)), np.int64)
    for at, (x, y) in enumerate(_PAIRS):
        pairs = degrees[x] * (degrees[y] - 1) >> 1 if x == y else degrees[x] * degrees[y]
        sums[at][:, wiring.prompt[order][first], wiring.kind[order][first]] = np.add.reduceat(pairs, first, axis=1)
    closed = _triangles(wiring, targets)
    # A triangle holds three open triads, none of which counts.
    found[..., : len(_MIDDLES)] = sums[_MIDDLES[:, 1], :, :, _MIDDLES[:, 0]].transpose(1, 2, 0) - closed @ _HELD
    found[..., len(_MIDDLES) :] = closed
    return found


def _triangles(wiring: Wiring, targets: Int[np.ndarray, "copy edge"]) -> Int[np.ndarray, "copy prompt closed"]:
    """Paths of two edges whose ends are joined by a third, by the kinds of both ends and all signs."""
    copies, nodes = len(targets), len(wiring.prompt)
    place = np.arange(copies)[:, None] * nodes
    a, b = (place + wiring.source).ravel(), (place + targets).ravel()
    from_feature = np.tile(wiring.kind[wiring.source] == FEATURE, copies)
    to_feature = wiring.kind[targets].ravel() == FEATURE
    negative = np.tile(wiring.negative, copies)

    def matrix(chosen: NDArray[np.bool_], values: NDArray[np.int64]) -> sparse.csr_array:
        return sparse.csr_array((values[chosen], (a[chosen], b[chosen])), shape=(copies * nodes, copies * nodes))

    # One product counts the paths of all four pairs of signs, in sixteen bits each.
    signs = np.where(negative, 1 << 16, 1)
    paths = matrix(to_feature, np.where(negative, 1 << 32, 1)) @ matrix(from_feature, signs)
    size = wiring.n_prompts * 48
    found = np.zeros(copies * size, np.int64)
    for third in (0, 1):
        both = (paths * matrix(negative == third, np.ones(len(a), np.int64))).tocoo()
        copy, start = np.divmod(both.coords[0], nodes)
        ends = wiring.kind[start].astype(np.int64) * 2 + (wiring.kind[both.coords[1] % nodes] == LOGIT)
        for pair in range(4):
            cell = copy * size + wiring.prompt[start] * 48 + ends * 8 + pair * 2 + third
            found += np.bincount(cell, (both.data >> 16 * pair) & _LARGEST, len(found)).astype(np.int64)
    return found.reshape(copies, wiring.n_prompts, 48)


def _described(chosen: NDArray[np.int64]) -> pd.DataFrame:
    some = [TRIADS[i] for i in chosen]
    return pd.DataFrame(
        {
            "triad": [one.text for one in some], "shape": [one.shape for one in some],
            **{f"kind_{x}": [one.kinds[i] for one in some] for i, x in enumerate("abc")},
            "signs": ["".join(one.signs) for one in some],
        }
    )  # fmt: skip
