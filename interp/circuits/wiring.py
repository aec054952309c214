"""What is wired to what, wherever it stands: pruned graphs of many prompts, positions collapsed, and rewired copies.

A feature that is active at three columns is one node, and so is a token that stands there twice; the errors of a layer
are one. So graphs of prompts of different length have nodes in common. An edge weighs what its copies sum to: two that
cancel out leave a small one, and a path a -> b -> c need not have b at one column.

The null beside counts in such graphs exchanges the targets of edges within a stratum (kind and layer of both ends), as
Maslov & Sneppen (Science 296 (2002) 910) do without strata: all layers, degrees and the order of nodes stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from interp.circuits.graph import Graph
from interp.circuits.influence import Pruned
from interp.errors import ConfigError

KINDS = ("token", "feature", "error", "logit")
"""Kinds of nodes; `Wiring.kind` counts along these."""
TOKEN, FEATURE, ERROR, LOGIT = range(4)

_CELLS = 1 << 18
"""Entries of the table of possible edges that are held at once."""


@dataclass(frozen=True, eq=False)
class Wiring:
    """Graphs of some prompts, positions collapsed. Every edge leads to a higher layer, at most one from node to node.

    Raises ConfigError where that is not so.
    """

    n_layers: int
    n_prompts: int
    prompt: Int[np.ndarray, " node"]
    kind: Int[np.ndarray, " node"]
    layer: Int[np.ndarray, " node"]
    """-1 for tokens, n_layers for logits."""
    number: Int[np.ndarray, " node"]
    """Of a feature its number in its layer, of a token or logit the token's id, of an error -1."""
    source: Int[np.ndarray, " edge"]
    """Node that each edge comes from."""
    target: Int[np.ndarray, " edge"]
    weight: Float[np.ndarray, " edge"]
    """Sum over positions of the edges that were kept."""

    def __post_init__(self) -> None:
        a, b, nodes = self.source, self.target, len(self.prompt)
        if nodes and not (self.prompt.min() >= 0 and self.prompt.max() < self.n_prompts):
            raise ConfigError(f"a wiring of {self.n_prompts} prompts has nodes of others")
        if len(numbered(self.prompt, self.kind, self.layer, self.number)[0]) < nodes:
            raise ConfigError("a wiring has a node twice in one prompt")
        if not len(a):
            return
        if min(a.min(), b.min()) < 0 or max(a.max(), b.max()) >= nodes:
            raise ConfigError(f"a wiring of {nodes} nodes has edges to others")
        if (self.prompt[a] != self.prompt[b]).any():
            raise ConfigError("a wiring has an edge between two prompts")
        if (self.layer[a] >= self.layer[b]).any():
            raise ConfigError("a wiring has an edge that does not lead to a higher layer")
        if np.isin(self.kind[b], (TOKEN, ERROR)).any() or (self.kind[a] == LOGIT).any():
            raise ConfigError("a wiring has an edge into a token or an error, or out of a logit")
        if len(numbered(a, b)[0]) < len(a):
            raise ConfigError("a wiring has an edge twice")

    @property
    def negative(self) -> Bool[np.ndarray, " edge"]:
        """Whether an edge takes away from its target."""
        return self.weight < 0

    @property
    def edge_prompt(self) -> Int[np.ndarray, " edge"]:
        """The prompt of each edge."""
        return self.prompt[self.source]

    def take(self, prompts: Sequence[int] | Int[np.ndarray, " some"]) -> Wiring:
        """The graphs of some prompts, in this order."""
        chosen = np.asarray(prompts, dtype=np.int64)
        if len(np.unique(chosen)) < len(chosen) or not np.isin(chosen, np.arange(self.n_prompts)).all():
            raise ConfigError(f"prompts to take are different numbers below {self.n_prompts}")
        place = np.full(self.n_prompts, -1)
        place[chosen] = np.arange(len(chosen))
        kept = place[self.prompt] >= 0
        new = np.cumsum(kept) - 1
        edges = kept[self.source]
        return Wiring(
            self.n_layers, len(chosen), place[self.prompt[kept]].astype(np.int32), self.kind[kept], self.layer[kept],
            self.number[kept], new[self.source[edges]].astype(np.int32), new[self.target[edges]].astype(np.int32),
            self.weight[edges],
        )  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """One row for each edge."""
        ends = {
            f"{end}_{name}": column[at]
            for end, at in (("source", self.source), ("target", self.target))
            for name, column in (("kind", np.array(KINDS)[self.kind]), ("layer", self.layer), ("number", self.number))
        }
        return pd.DataFrame({"prompt": self.edge_prompt, **ends, "weight": self.weight})


def wiring(graph: Graph, pruned: Pruned) -> Wiring:
    """What pruning left of the graph of one prompt. An edge is there if it was kept at any pair of columns."""
    features, errors, tokens, _ = graph.sources
    if pruned.edges.shape != (features + len(graph.logits), features + errors + tokens):
        raise ConfigError("the pruning is that of another graph")
    own = _nodes(FEATURE, graph.features[:, 0], graph.features[:, 2])
    layers = torch.arange(graph.n_layers).repeat_interleave(len(graph.tokens))
    below = np.concatenate([own, _nodes(ERROR, layers, -1), _nodes(TOKEN, -1, graph.tokens)])
    above = np.concatenate([own, _nodes(LOGIT, graph.n_layers, graph.logits)])
    target, source = pruned.edges.nonzero(as_tuple=True)
    weights = graph.edges[target, source].double().cpu().numpy()
    ends = np.concatenate([below[source.cpu().numpy()], above[target.cpu().numpy()]])
    first, node = numbered(*ends.T)
    a, b = node.reshape(2, -1)
    edge, copy = numbered(a, b)
    kind, layer, number = ends[first].T
    return Wiring(
        graph.n_layers, 1, np.zeros(len(first), np.int32), kind.astype(np.int8), layer.astype(np.int16),
        number.astype(np.int32), a[edge].astype(np.int32), b[edge].astype(np.int32),
        np.bincount(copy, weights, len(edge)).astype(np.float32),
    )  # fmt: skip


def joined(wirings: Sequence[Wiring]) -> Wiring:
    """Several wirings as one, their prompts one after the other."""
    if len({one.n_layers for one in wirings}) != 1:
        raise ConfigError("wirings are joined if there are any, and all of models with the same number of layers")
    prompts = np.cumsum([0, *(one.n_prompts for one in wirings)])
    nodes = np.cumsum([0, *(len(one.prompt) for one in wirings)])

    def put(name: str, first: Sequence[int] | NDArray[np.int64] | None = None) -> NDArray:
        columns = [getattr(one, name) for one in wirings]
        return np.concatenate([c if first is None else (c + first[i]).astype(np.int32) for i, c in enumerate(columns)])

    return Wiring(
        wirings[0].n_layers, int(prompts[-1]), put("prompt", prompts), put("kind"), put("layer"), put("number"),
        put("source", nodes), put("target", nodes), put("weight"),
    )  # fmt: skip


def rewired(wiring: Wiring, *, samples: int = 199, swaps: int = 10, seed: int = 0) -> Int[np.ndarray, "sample edge"]:
    """Targets of all edges in rewired copies; an edge keeps its source and its sign.

    Within a stratum (prompt, kind and layer of the source, kind and layer of the target) edges exchange targets in
    pairs, unless an edge would be there twice: in- and out-degrees stay, by stratum and so altogether, and how many
    edges of each sign leave a node. Every edge is offered about `swaps` exchanges.

    A walk of that length leads from the graph to a hidden one, and a walk of its own from there to each copy, so that
    the graph is exchangeable with the copies if it is a draw of the null, mixed well or not (Besag & Clifford,
    Biometrika 76 (1989) 633); too few swaps cost power, not validity.
    """
    if samples < 1 or swaps < 1:
        raise ConfigError(f"rewiring makes at least one copy by one swap, not {samples} by {swaps}")
    rng = np.random.default_rng(seed)
    found = np.repeat(wiring.target[None], samples, 0)
    strata = _Strata(wiring)
    if not len(strata.edges):
        return found
    hidden = strata.walk(strata.place[None], swaps, rng)
    most = max(1, _CELLS // strata.cells)
    for first in range(0, samples, most):
        n = min(most, samples - first)
        places = strata.walk(np.repeat(hidden, n, 0), swaps, rng)
        found[first : first + n, strata.edges] = strata.targets[strata.offset + places]
    return found


class _Strata:
    """Edges that can exchange targets, stratum by stratum, and a number for every edge that could be."""

    def __init__(self, wiring: Wiring):
        a, b = wiring.source, wiring.target
        ends = (wiring.kind[a], wiring.layer[a], wiring.kind[b], wiring.layer[b])
        stratum = numbered(wiring.edge_prompt, *ends)[1]
        leads_to = np.bincount(stratum[numbered(stratum, b)[0]])
        order = np.argsort(stratum, kind="stable")
        self.edges = order[leads_to[stratum[order]] > 1]  # where there is one target, nothing can move
        a, b = a[self.edges], b[self.edges]
        first, stratum = np.unique(stratum[self.edges], return_index=True, return_inverse=True)[1:]
        (one_a, source), (one_b, target) = numbered(stratum, a), numbered(stratum, b)
        wide, high = (np.bincount(stratum[one], minlength=len(first)) for one in (one_b, one_a))
        start_a, start_b = np.cumsum(high) - high, np.cumsum(wide) - wide
        area = high * wide
        self.cells = int(area.sum())
        # The possible edge from a source to the target at a place of its stratum has the number row + place.
        self.row = (np.cumsum(area) - area)[stratum] + (source - start_a[stratum]) * wide[stratum]
        self.offset = start_b[stratum]
        self.place = target - self.offset
        self.targets = b[one_b]
        """Nodes by stratum and place."""
        self.size = np.diff([*first, len(self.edges)])
        half = self.size // 2
        self.slot = np.repeat(np.arange(len(half)), half)  # as many as a reflection of a stratum has pairs
        self.first, self.wrap = first[self.slot], self.size[self.slot]
        self.rank = 1 + np.arange(len(self.slot)) - (np.cumsum(half) - half)[self.slot]

    def walk(
        self, places: Int[np.ndarray, "copy edge"], swaps: int, rng: np.random.Generator
    ) -> Int[np.ndarray, "copy edge"]:
        """Places of targets after so many exchanges, each copy on a walk of its own.

        In a round a random reflection of each stratum pairs its edges off, and a coin says which pairs try to exchange
        targets. A pair stays if an edge that it would make is there, or another pair would make it too, or another
        would make an edge that it has. So the same reflection and coins lead back: the walk is symmetric, and in the
        end all graphs with these degrees are equally likely.
        """
        copies, edges = places.shape
        place = places.ravel().copy()
        row = (self.row + np.arange(copies)[:, None] * self.cells).ravel()
        holder = np.zeros(copies * self.cells, np.int32)  # 1 + the edge that is there
        holder[row + place] = np.arange(1, len(place) + 1)
        fixed = np.zeros(len(place), bool)
        for _ in range(2 * swaps):  # half of the pairs try
            i, j = self._pairs(copies, edges, rng)
            place_i, place_j, row_i, row_j = place.take(i), place.take(j), row.take(i), row.take(j)
            new_i, new_j = row_i + place_j, row_j + place_i
            stays = place_i == place_j
            # Two edges of one source exchange no more than their signs, and make no new edge.
            pair = np.flatnonzero((row_i != row_j) & ~stays)
            made, pair = np.concatenate([new_i.take(pair), new_j.take(pair)]), np.concatenate([pair, pair])
            there = holder.take(made)
            taken, free = np.flatnonzero(there), np.flatnonzero(there == 0)
            stays[pair.take(taken)] = True
            kept = there.take(taken) - 1
            fixed[kept] = True
            stays |= fixed.take(i) | fixed.take(j)
            fixed[kept] = False
            made, pair = made.take(free), pair.take(free)
            holder[made] = pair
            last = holder.take(made)
            clash = np.flatnonzero(last != pair)
            stays[pair.take(clash)] = stays[last.take(clash)] = True
            holder[made] = 0
            goes = np.flatnonzero(~stays)
            i, j, new_i, new_j = i.take(goes), j.take(goes), new_i.take(goes), new_j.take(goes)
            place_i, place_j = place_i.take(goes), place_j.take(goes)
            holder[new_i - place_j + place_i] = 0
            holder[new_j - place_i + place_j] = 0
            holder[new_i], holder[new_j] = i + 1, j + 1
            place[i], place[j] = place_j, place_i
        return place.reshape(copies, edges)

    def _pairs(
        self, copies: int, edges: int, rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
        """Edges that try to exchange targets. Ranks i and j of a stratum are paired if i + j is a random number, modulo
        its size: 2 u or 2 u - 1."""
        shape = copies, len(self.size)
        u = (rng.random(shape) * self.size).astype(np.int64).take(self.slot, axis=1)
        odd = rng.integers(0, 2, shape).take(self.slot, axis=1)
        i, j = u + self.rank - odd, u - self.rank
        i -= self.wrap * (i >= self.wrap)
        j += self.wrap * (j < 0)
        start = self.first + np.arange(copies)[:, None] * edges
        coins = np.unpackbits(np.frombuffer(rng.bytes(i.size // 8 + 1), np.uint8))[: i.size]
        heads = np.flatnonzero(coins)
        return (i + start).ravel().take(heads), (j + start).ravel().take(heads)


def numbered(*columns: NDArray) -> tuple[Int[np.ndarray, " distinct"], Int[np.ndarray, " row"]]:
    """Rows of small integers, numbered in order: where each distinct one stands first, and the number of every row."""
    key, size = np.zeros(len(columns[0]), np.int64), 1
    for column in columns if len(columns[0]) else ():
        low, high = int(column.min()), int(column.max())
        if size * (high - low + 1) >= 1 << 62:
            key = np.unique(key, return_inverse=True)[1]
            size = int(key.max()) + 1
        key = key * (high - low + 1) + (column.astype(np.int64) - low)
        size *= high - low + 1
    return np.unique(key, return_index=True, return_inverse=True)[1:]


def _nodes(kind: int, layer: torch.Tensor | int, number: torch.Tensor | int) -> Int[np.ndarray, "node three"]:
    columns = torch.broadcast_tensors(torch.tensor(kind), torch.as_tensor(layer).cpu(), torch.as_tensor(number).cpu())
    return torch.stack(columns, 1).long().numpy()
