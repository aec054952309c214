"""Do some edges do the job alone? The metric with all others replaced, over growing circuits, beside other circuits.

A circuit is a set of edges, or of parts: then all that a part left out writes is replaced. *Faithfulness* is the share
of the metric that it keeps; *completeness* is tried as in Marks et al. (arXiv 2403.19647) by what the model keeps
without the circuit, *minimality* by what the circuit loses without one of its members (leave-one-out; Wang et al.,
arXiv 2211.00593, ask both of subsets, too). Over growing circuits, CPR is the area under faithfulness and CMD that
between faithfulness and 1, as in MIB (Mueller et al., arXiv 2504.13151); here faithfulness is a ratio of means over
pairs, the areas begin at the smallest size, and all edges count alike. A circuit found on some pairs is fitted to them:
find it on one half and try it on the other. That a circuit suffices does not say that another would not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.estimates import Estimate, of_ratios, rank_p, ratio
from interp.metrics import Metric
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY
from interp.models.sweeps import Readout
from interp.models.sweeps.circuits import Kind, Replacements
from interp.prompts import PromptPairs
from interp.results import grid_frame

Edge = tuple[str, str]
"""The part that writes and the part that reads: ("L0H1", "L1H2.q")."""
Member = Edge | str
"""An edge, or a part: embed, L0H1, mlp0."""
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Sizes of circuits as shares of all edges, as in MIB."""


@dataclass(frozen=True, eq=False)
class CircuitCurve:
    """The metric with only the first members of an order left, and of orders that know nothing of the gradient."""

    metric: str
    unit: str
    kind: Kind
    of: str
    """What circuits are made of: edges or parts."""
    total: int
    """How many of them the model has."""
    sizes: tuple[int, ...]
    """How many are kept."""
    values: Float[Tensor, "pair size"]
    random: Float[Tensor, "pair order size"]
    """The same for random orders: the control."""
    magnitude: Float[Tensor, "pair size"]
    """The same in the order of how far what is carried differs between the runs of these very pairs."""
    whole: Float[Tensor, " pair"]
    """The model as it is."""
    empty: Float[Tensor, " pair"]
    """Everything replaced."""
    groups: Int[Tensor, " pair"]

    def faithfulness(self) -> tuple[Estimate, Estimate, Estimate]:
        """Share of the metric that circuits of each size keep: of the order, of random ones, and by magnitude.

        (m(C) - m(empty)) / (m(model) - m(empty)), a ratio of means over pairs; 1 is all, 0 nothing. The interval of
        the random ones holds how far orders differ, too.
        """
        below, apart = self.empty[:, None], self.whole - self.empty
        control = of_ratios(self.random - below[..., None], apart, lambda kept: kept, self.groups, sets=True)
        own, size = (ratio(one - below, apart, self.groups) for one in (self.values, self.magnitude))
        return own, control, size

    def cpr(self) -> tuple[Estimate, Estimate, Estimate]:
        """Area under faithfulness over the share kept: of the order, of random ones, by magnitude.

        Straight lines join the sizes, so that an order which keeps nothing short of the whole still has half of the
        last step: compare with the random ones, and only over the same sizes.
        """
        return self._areas(lambda kept: kept)

    def cmd(self) -> tuple[Estimate, Estimate, Estimate]:
        """Area between faithfulness and 1 over the share kept: of the order, of random ones one by one, by magnitude.

        0 is a model that any circuit keeps whole. What pairs differ by chance only adds to it, so that its interval
        hardly reaches 0.
        """
        return self._areas(lambda kept: np.abs(1 - kept))

    def _areas(self, height: Callable[[np.ndarray], np.ndarray]) -> tuple[Estimate, Estimate, Estimate]:
        shares, apart = np.asarray(self.sizes) / self.total, self.whole - self.empty

        def area(kept: np.ndarray) -> np.ndarray:
            return np.trapezoid(height(kept), shares, axis=-1)

        own, size = (
            of_ratios(one - self.empty[:, None], apart, area, self.groups) for one in (self.values, self.magnitude)
        )
        control = of_ratios(self.random - self.empty[:, None, None], apart, area, self.groups, sets=True)
        return own, control, size

    def to_frame(self) -> pd.DataFrame:
        """One row for each pair and size."""
        frame = grid_frame(
            {self.of: self.sizes}, value=self.values, random=self.random.mean(1), magnitude=self.magnitude
        )
        return frame.rename(columns={"prompt": "pair"})


@dataclass(frozen=True, eq=False)
class EdgeCircuit:
    """The metric with only a circuit left, without it, and without one of its members, beside random circuits."""

    metric: str
    unit: str
    kind: Kind
    of: str
    """What the circuit is made of: edges or parts."""
    members: tuple[str, ...]
    """The circuit in the order in which it was given: "L0H1 to L1H2.q", or "L0H1"."""
    whole: Float[Tensor, " pair"]
    empty: Float[Tensor, " pair"]
    alone: Float[Tensor, " pair"]
    without: Float[Tensor, " pair"]
    lacking: Float[Tensor, "pair member"]
    """The circuit without one of its members; no columns where this was not asked."""
    random_alone: Float[Tensor, "pair circuit"]
    """As many members drawn at random."""
    random_without: Float[Tensor, "pair circuit"]
    groups: Int[Tensor, " pair"]

    def faithfulness(self) -> tuple[Estimate, Estimate]:
        """Share of the metric that the circuit keeps, and that random circuits of its size keep.

        The interval of the random ones holds how far they differ, too.
        """
        return self._kept(self.alone, self.random_alone)

    def completeness(self) -> tuple[Estimate, Estimate]:
        """Share of the metric that is kept without the circuit, and without random ones: near 0, it holds all."""
        return self._kept(self.without, self.random_without)

    def minimality(self) -> Estimate:
        """How much the circuit loses with each of its members, as a share of the metric: near 0, it is not needed.

        Of two members that do the same, neither is needed while the other is there.
        """
        return ratio(self.alone[:, None] - self.lacking, self.whole - self.empty, self.groups)

    def beyond_random(self) -> Estimate:
        """The share of the metric that the circuit keeps beyond random circuits of its size.

        The interval is over pairs and circuits; p is one-sided, the circuit's rank among the random ones.
        """
        apart = self.whole - self.empty
        beyond = self.alone[:, None] - self.random_alone
        found = of_ratios(beyond, apart, lambda kept: kept, self.groups, sets=True)
        above = (beyond.nanmean(0) / apart.nanmean()).numpy()
        p = rank_p(0.0, -above, largest=False)
        return Estimate(found.value, found.low, found.high, p, found.n)

    def _kept(self, own: Float[Tensor, " pair"], random: Float[Tensor, "pair circuit"]) -> tuple[Estimate, Estimate]:
        apart = self.whole - self.empty
        control = of_ratios(random - self.empty[:, None], apart, lambda kept: kept, self.groups, sets=True)
        return ratio(own - self.empty, apart, self.groups), control

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
    order: Iterable[Member],
    *,
    shares: Sequence[float] = SHARES,
    kind: Kind = "counterfactual",
    metric: Metric | str = "logit_diff",
    random_orders: int = 10,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> CircuitCurve:
    """Keep the first of `order` (edges or parts, the most important first; those not in it come last, at random).

    Everything else is replaced. The base run is the clean one; with `counterfactual` replaced edges carry the
    corrupted run's. `shares` end with 1: the areas are over all sizes up to the whole model.
    """
    if not all(0 < share <= 1 for share in shares) or max(shares, default=0) < 1 or len(set(shares)) < 2:
        raise ConfigError("the sizes of circuits are shares of the whole, above 0 and up to 1, at least two of them")
    if random_orders < 2:
        raise ConfigError(f"random orders are the control: at least 2, not {random_orders}")
    named = _members(order)
    circuits = _Circuits.of(model, pairs, named, metric, kind, seed, memory)
    total = len(circuits.numbers)
    sizes = sorted({max(1, round(share * total)) for share in shares})
    if len(sizes) < 2:
        raise ConfigError(f"of {total} {circuits.what} these shares are all {sizes[0]}; take shares further apart")
    generator = torch.Generator().manual_seed(seed)
    first = torch.tensor(circuits.known(named))
    rest = torch.ones(total, dtype=torch.bool)
    rest[first] = False
    left = rest.nonzero().flatten()
    orders = [torch.cat([first, left[torch.randperm(len(left), generator=generator)]]), circuits.by_magnitude()]
    orders += [torch.randperm(total, generator=generator) for _ in range(random_orders)]
    ranks = torch.stack([one.argsort() for one in orders])
    kept = (ranks[:, None] < torch.tensor(sizes)[:, None]).flatten(0, 1)
    whole, empty = circuits.runs.ends()
    values = circuits.scores(kept, progress=progress).unflatten(1, (len(orders), len(sizes)))
    chosen = circuits.runs.readout.metrics[0]
    return CircuitCurve(
        chosen.name, chosen.unit, kind, circuits.what, total, tuple(sizes), values[:, 0], values[:, 2:], values[:, 1],
        whole, empty, pairs.clean.groups,
    )  # fmt: skip


def edge_circuit(
    model: HookedTransformer,
    pairs: PromptPairs,
    kept: Iterable[Member],
    *,
    kind: Kind = "counterfactual",
    metric: Metric | str = "logit_diff",
    random_circuits: int = 20,
    minimality: bool = True,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> EdgeCircuit:
    """Replace all but `kept` (edges or parts), `kept` alone, and, for `minimality`, all but `kept` less one.

    The first two are done for random sets of as many edges or parts as well. The third is a run for each member.
    """
    if random_circuits < 2:
        raise ConfigError(f"random circuits are the control: at least 2, not {random_circuits}")
    named = _members(kept)
    circuits = _Circuits.of(model, pairs, named, metric, kind, seed, memory)
    total = len(circuits.numbers)
    members = torch.tensor(circuits.known(named))
    circuit = torch.zeros(total, dtype=torch.bool)
    circuit[members] = True
    if not 0 < len(members) < total:
        raise ConfigError(
            f"a circuit keeps some {circuits.what} and leaves others out; {len(members)} of {total} does not"
        )
    generator = torch.Generator().manual_seed(seed)
    others = torch.zeros(random_circuits, total, dtype=torch.bool)
    for one in others:
        one[torch.randperm(total, generator=generator)[: len(members)]] = True
    whole, empty = circuits.runs.ends()
    found = circuits.scores(torch.cat([circuit[None], ~circuit[None], others, ~others]), progress=progress)
    lacking = [found[:, :0]]
    for some in members.split(max(1, memory // (8 * total))) if minimality else ():
        less = circuit.repeat(len(some), 1)
        less[torch.arange(len(some)), some] = False
        lacking.append(circuits.scores(less, progress=progress))
    names = list(circuits.numbers)
    chosen = circuits.runs.readout.metrics[0]
    return EdgeCircuit(
        metric=chosen.name,
        unit=chosen.unit,
        kind=kind,
        of=circuits.what,
        members=tuple(_told(names[i]) for i in members.tolist()),
        whole=whole,
        empty=empty,
        alone=found[:, 0],
        without=found[:, 1],
        lacking=torch.cat(lacking, 1),
        random_alone=found[:, 2 : 2 + random_circuits],
        random_without=found[:, 2 + random_circuits :],
        groups=pairs.clean.groups,
    )


@dataclass(frozen=True, eq=False)
class _Circuits:
    """Sets of edges, or of parts, ready to be run."""

    runs: Replacements
    numbers: dict[Member, int]
    """All edges or all parts."""
    carried: Int[Tensor, " edge"]
    """Which of them each edge belongs to."""
    what: str

    @classmethod
    def of(
        cls,
        model: HookedTransformer,
        pairs: PromptPairs,
        named: Sequence[Member],
        metric: Metric | str,
        kind: Kind,
        seed: int,
        memory: int,
    ) -> _Circuits:
        readout = Readout.of(pairs, [metric])
        runs = Replacements.of(model, pairs.clean, pairs.corrupted, readout, kind, seed=seed, memory=memory)
        edges, sources, targets = runs.graph.edges, runs.graph.sources, runs.graph.targets
        if all(isinstance(one, str) for one in named):
            return cls(runs, {name: i for i, name in enumerate(sources)}, edges[:, 0], "parts")
        names = [(sources[s], targets[t]) for s, t in edges.tolist()]
        return cls(runs, {name: i for i, name in enumerate(names)}, torch.arange(len(edges)), "edges")

    def known(self, members: Sequence[Member]) -> list[int]:
        """Their numbers, each once. Raises ConfigError for one that the model lacks."""
        for one in members:
            if one in self.numbers:
                continue
            if isinstance(one, str) and self.what == "parts":
                raise ConfigError(f"the model has no part {one!r}; parts are embed, L0H0, ..., mlp0, ...")
            if isinstance(one, str):
                raise ConfigError(f"name edges (from, to) or parts, not both: {one!r} stands among edges")
            raise ConfigError(
                f"the model has no edge from {one[0]} to {one[1]}; a part reads what is written before it"
            )
        return [self.numbers[one] for one in dict.fromkeys(members)]

    def scores(self, kept: Bool[Tensor, "circuit member"], *, progress: bool) -> Float[Tensor, "pair circuit"]:
        """The metric where everything else is replaced."""
        return self.runs.scores(~kept[:, self.carried], progress=progress)[..., 0]

    def by_magnitude(self) -> Int[Tensor, " member"]:
        """Those first whose writing differs most between the runs."""
        apart = self.runs.apart()
        return (apart if self.what == "parts" else apart[self.runs.graph.edges[:, 0]]).argsort(
            descending=True, stable=True
        )


def _members(given: Iterable[Any]) -> list[Member]:
    """Edges and parts as they are named here. Raises ConfigError where there are none or one is neither."""
    named: list[Member] = [one if isinstance(one, str) else tuple(one) for one in given]
    if not named:
        raise ConfigError("name at least one edge (from, to) or one part")
    wrong = [one for one in named if not isinstance(one, str) and len(one) != 2]
    if wrong:
        raise ConfigError(f"an edge is two names, from and to, not {wrong[0]!r}")
    return named


def _told(member: Member) -> str:
    return member if isinstance(member, str) else " to ".join(member)
