"""Do some edges do the job alone? The metric with all others replaced, over growing circuits, beside other circuits.

A circuit is a set of edges (or of parts: all that a part left out writes is replaced). *Faithfulness* is what it keeps
of the metric, *completeness* what the model keeps without it, *minimality* what each of its edges adds (Wang et al.,
arXiv 2211.00593). Over growing circuits, CPR is the area under faithfulness and CMD that between faithfulness and 1, as
in MIB (Mueller et al., arXiv 2504.13151). A circuit found on some pairs is fitted to them: find it on one half and try
it on the other. That a circuit suffices does not say that another would not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.estimates import Estimate, difference, of_ratios, ratio
from interp.metrics import Metric
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY
from interp.models.sweeps import Readout
from interp.models.sweeps.blocks import network
from interp.models.sweeps.circuits import Kind, Replacements
from interp.models.sweeps.edges import Graph
from interp.prompts import PromptPairs
from interp.results import grid_frame

Edge = tuple[str, str]
"""The part that writes and the part that reads: ("L0H1", "L1H2.q")."""
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Sizes of circuits as shares of all edges, as in MIB."""


@dataclass(frozen=True, eq=False)
class CircuitCurve:
    """The metric with only the first edges of an order left, and of orders that know nothing of the gradient."""

    metric: str
    unit: str
    kind: Kind
    total: int
    """Edges of the model."""
    sizes: tuple[int, ...]
    """Edges kept."""
    values: Float[Tensor, "pair size"]
    random: Float[Tensor, "pair order size"]
    """The same for random orders: the control."""
    magnitude: Float[Tensor, "pair size"]
    """The same for edges in the order of how far what they carry differs between the runs."""
    whole: Float[Tensor, " pair"]
    """The model as it is."""
    empty: Float[Tensor, " pair"]
    """All edges replaced."""
    groups: Int[Tensor, " pair"]

    def faithfulness(self) -> tuple[Estimate, Estimate, Estimate]:
        """Share of the metric that circuits of each size keep: of the order, of random ones, and by magnitude.

        (m(C) - m(empty)) / (m(model) - m(empty)), a ratio of means over pairs; 1 is all, 0 nothing.
        """
        own, control, size = (
            ratio(*self._parts(one), self.groups) for one in (self.values, self.random.mean(1), self.magnitude)
        )
        return own, control, size

    def cpr(self) -> tuple[Estimate, Estimate, Estimate]:
        """Area under faithfulness over the share of edges kept: of the order, of random ones, by magnitude."""
        return self._areas(lambda kept: kept)

    def cmd(self) -> tuple[Estimate, Estimate, Estimate]:
        """Area between faithfulness and 1 over the share of edges kept; 0 is a model that any circuit keeps whole.

        For random orders it is that of their mean curve.
        """
        return self._areas(lambda kept: np.abs(1 - kept))

    def _areas(self, height: Callable[[np.ndarray], np.ndarray]) -> tuple[Estimate, Estimate, Estimate]:
        shares = np.asarray(self.sizes) / self.total

        def area(kept: np.ndarray) -> np.ndarray:
            return np.trapezoid(height(kept), shares, axis=-1)

        own, control, size = (
            of_ratios(*self._parts(one), area, self.groups)
            for one in (self.values, self.random.mean(1), self.magnitude)
        )
        return own, control, size

    def _parts(self, values: Float[Tensor, "pair size"]) -> tuple[Tensor, Tensor]:
        return values - self.empty[:, None], self.whole - self.empty

    def to_frame(self) -> pd.DataFrame:
        """One row for each pair and size."""
        frame = grid_frame(
            {"edges": self.sizes}, value=self.values, random=self.random.mean(1), magnitude=self.magnitude
        )
        return frame.rename(columns={"prompt": "pair"})


@dataclass(frozen=True, eq=False)
class EdgeCircuit:
    """The metric with only a circuit left, without it, and without one of its edges, beside random circuits."""

    metric: str
    unit: str
    kind: Kind
    sources: tuple[str, ...]
    """The circuit, edge by edge."""
    targets: tuple[str, ...]
    whole: Float[Tensor, " pair"]
    empty: Float[Tensor, " pair"]
    alone: Float[Tensor, " pair"]
    without: Float[Tensor, " pair"]
    lacking: Float[Tensor, "pair edge"]
    """The circuit without one of its edges."""
    random_alone: Float[Tensor, "pair circuit"]
    random_without: Float[Tensor, "pair circuit"]
    groups: Int[Tensor, " pair"]

    def faithfulness(self) -> tuple[Estimate, Estimate]:
        """Share of the metric that the circuit keeps, and that random circuits of its size keep."""
        return self._kept(self.alone), self._kept(self.random_alone.mean(1))

    def completeness(self) -> tuple[Estimate, Estimate]:
        """Share of the metric that is kept without the circuit, and without random ones: near 0, it holds all."""
        return self._kept(self.without), self._kept(self.random_without.mean(1))

    def minimality(self) -> Estimate:
        """How much the circuit loses with each of its edges, as a share of the metric: near 0, it is not needed."""
        return ratio(self.alone[:, None] - self.lacking, self.whole - self.empty, self.groups)

    def beyond_random(self) -> Estimate:
        """The metric that the circuit alone has beyond random circuits of its size, in units of the metric."""
        return difference(self.alone, self.random_alone.mean(1), self.groups)

    def _kept(self, values: Float[Tensor, " pair"]) -> Estimate:
        return ratio(values - self.empty, self.whole - self.empty, self.groups)

    def to_frame(self) -> pd.DataFrame:
        """One row for each pair."""
        return pd.DataFrame(
            {"pair": range(len(self.whole)), "whole": self.whole.numpy(), "empty": self.empty.numpy(),
             "alone": self.alone.numpy(), "without": self.without.numpy(),
             "random_alone": self.random_alone.mean(1).numpy(), "random_without": self.random_without.mean(1).numpy()}
        )  # fmt: skip


def circuit_curve(
    model: HookedTransformer,
    pairs: PromptPairs,
    order: Sequence[Edge],
    *,
    shares: Sequence[float] = SHARES,
    kind: Kind = "counterfactual",
    metric: Metric | str = "logit_diff",
    random_orders: int = 10,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> CircuitCurve:
    """Keep the first edges of `order` (the most important first; edges not in it come last, at random), replace all.

    The base run is the clean one; with `counterfactual` replaced edges carry the corrupted run's.
    """
    runs, graph, edges = _ready(model, pairs, metric, kind, seed, memory)
    total = len(edges)
    sizes = sorted({max(1, min(total, round(share * total))) for share in shares})
    if not all(0 < share <= 1 for share in shares):
        raise ConfigError("the sizes of circuits are shares of all edges, above 0 and at most 1")
    generator = torch.Generator().manual_seed(seed)
    first = torch.tensor(
        [edges[edge] for edge in dict.fromkeys(_known(edge, edges) for edge in order)], dtype=torch.long
    )
    rest = torch.ones(total, dtype=torch.bool)
    rest[first] = False
    left = rest.nonzero().flatten()
    own = torch.cat([first, left[torch.randperm(len(left), generator=generator)]])
    apart = runs.apart()[graph.edges[:, 0]]
    orders = [own, apart.argsort(descending=True, stable=True)]
    orders += [torch.randperm(total, generator=generator) for _ in range(random_orders)]
    kept = torch.zeros(len(orders), len(sizes), total, dtype=torch.bool)
    for number, one in enumerate(orders):
        for place, size in enumerate(sizes):
            kept[number, place, one[:size]] = True
    asked = torch.cat(
        [~kept.flatten(0, 1), torch.ones(1, total, dtype=torch.bool), torch.zeros(1, total, dtype=torch.bool)]
    )
    found = runs.scores(asked, progress=progress)[..., 0]
    values = found[:, :-2].unflatten(1, (len(orders), len(sizes)))
    chosen = runs.readout.metrics[0]
    return CircuitCurve(
        chosen.name, chosen.unit, kind, total, tuple(sizes), values[:, 0], values[:, 2:], values[:, 1], found[:, -1],
        found[:, -2], pairs.clean.groups,
    )  # fmt: skip


def edge_circuit(
    model: HookedTransformer,
    pairs: PromptPairs,
    kept: Sequence[Edge],
    *,
    kind: Kind = "counterfactual",
    metric: Metric | str = "logit_diff",
    random_circuits: int = 20,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> EdgeCircuit:
    """Replace all edges but `kept`, `kept` alone, and all but `kept` less one; the first two for random sets, too."""
    runs, _, edges = _ready(model, pairs, metric, kind, seed, memory)
    total = len(edges)
    circuit = torch.zeros(total, dtype=torch.bool)
    circuit[[edges[_known(edge, edges)] for edge in kept]] = True
    size = int(circuit.sum())
    if not 0 < size < total:
        raise ConfigError(f"a circuit keeps some edges and leaves others out; {size} of {total} does not")
    generator = torch.Generator().manual_seed(seed)
    others = torch.zeros(random_circuits, total, dtype=torch.bool)
    for one in others:
        one[torch.randperm(total, generator=generator)[:size]] = True
    places = circuit.nonzero().flatten()
    lacking = circuit.expand(size, -1).clone()
    lacking[torch.arange(size), places] = False
    nothing = torch.zeros(1, total, dtype=torch.bool)
    asked = torch.cat([nothing, ~nothing, ~circuit[None], circuit[None], ~lacking, ~others, others])
    found = runs.scores(asked, progress=progress)[..., 0]
    whole, empty, alone, without = found[:, :4].unbind(1)
    names = list(edges)
    chosen = runs.readout.metrics[0]
    return EdgeCircuit(
        metric=chosen.name,
        unit=chosen.unit,
        kind=kind,
        sources=tuple(names[i][0] for i in places.tolist()),
        targets=tuple(names[i][1] for i in places.tolist()),
        whole=whole,
        empty=empty,
        alone=alone,
        without=without,
        lacking=found[:, 4 : 4 + size],
        random_alone=found[:, 4 + size : 4 + size + random_circuits],
        random_without=found[:, 4 + size + random_circuits :],
        groups=pairs.clean.groups,
    )


def edges_from(model: HookedTransformer, parts: Sequence[str]) -> list[Edge]:
    """All edges that leave some parts (embed, L0H1, mlp0): the circuit in which only these parts write as they do."""
    names = _named(Graph.of(network(model)))
    unknown = set(parts) - {source for source, _ in names}
    if unknown:
        raise ConfigError(f"the model has no part {sorted(unknown)[0]!r}; parts are embed, L0H0, ..., mlp0, ...")
    return [edge for edge in names if edge[0] in set(parts)]


def _ready(
    model: HookedTransformer, pairs: PromptPairs, metric: Metric | str, kind: Kind, seed: int, memory: int
) -> tuple[Replacements, Graph, dict[Edge, int]]:
    readout = Readout.of(pairs, [metric])
    runs = Replacements.of(model, pairs.clean, pairs.corrupted, readout, kind, seed=seed, memory=memory)
    return runs, runs.graph, _named(runs.graph)


def _named(graph: Graph) -> dict[Edge, int]:
    sources, targets = graph.sources, graph.targets
    return {(sources[s], targets[t]): number for number, (s, t) in enumerate(graph.edges.tolist())}


def _known(edge: Edge, edges: dict[Edge, int]) -> Edge:
    if edge not in edges:
        raise ConfigError(f"the model has no edge from {edge[0]} to {edge[1]}; a part reads what is written before it")
    return edge
