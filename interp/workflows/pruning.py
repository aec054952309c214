"""Which edges can go? Greedy pruning from the output down, in the manner of ACDC (Conmy et al., arXiv 2304.14997).

Target by target, the last ones first: each edge is replaced alone, then the edges are replaced one on top of the
other, the least harmful first, as long as each step costs less than the threshold. Both rounds are one batch, where
ACDC pays a run for every edge; as there, what is kept hangs on the order, and the result is fitted to these pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from rich.progress import Progress
from torch import Tensor

from interp.errors import ConfigError
from interp.metrics import Metric
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY
from interp.models.sweeps import Readout
from interp.models.sweeps.circuits import Kind, Replacements
from interp.prompts import PromptPairs


@dataclass(frozen=True, eq=False)
class Pruning:
    """What is left of the edges."""

    metric: str
    unit: str
    kind: Kind
    threshold: float
    sources: tuple[str, ...]
    """All edges of the model."""
    targets: tuple[str, ...]
    kept: Bool[Tensor, " edge"]
    cost: Float[Tensor, " edge"]
    """What replacing the edge alone cost when its target's turn came; nan where it was never asked."""
    whole: Float[Tensor, " pair"]
    empty: Float[Tensor, " pair"]
    left: Float[Tensor, " pair"]
    """The metric with only the kept edges."""
    runs: int
    """Sets of edges that were run on all pairs."""
    groups: Int[Tensor, " pair"]

    @property
    def edges(self) -> list[tuple[str, str]]:
        """The kept edges."""
        return [(self.sources[i], self.targets[i]) for i in self.kept.nonzero().flatten().tolist()]

    def to_frame(self) -> pd.DataFrame:
        """One row for each edge."""
        return pd.DataFrame(
            {"source": self.sources, "target": self.targets, "kept": self.kept.numpy(), "cost": self.cost.numpy()}
        )


def prune_edges(
    model: HookedTransformer,
    pairs: PromptPairs,
    *,
    threshold: float = 0.01,
    kind: Kind = "counterfactual",
    metric: Metric | str = "logit_diff",
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> Pruning:
    """Replace edges as long as each costs less than `threshold`.

    The cost of a set is the mean over pairs of how far the metric is from the whole model's, as a share of the mean
    distance of the model with all edges replaced; the threshold bounds what one edge may add to it. Edges into a part
    that nothing reads any more go without being asked.
    """
    if not threshold > 0:
        raise ConfigError(f"the threshold must be above 0, not {threshold}")
    readout = Readout.of(pairs, [metric])
    runs = Replacements.of(model, pairs.clean, pairs.corrupted, readout, kind, seed=seed, memory=memory)
    graph = runs.graph
    source, target = graph.edges.unbind(1)
    replaced = torch.zeros(len(source), dtype=torch.bool)
    whole, empty = runs.ends()
    scale = (whole - empty).abs().nanmean()
    cost, asked, now = torch.full((len(source),), torch.nan), 2, 0.0

    def costs(sets: Bool[Tensor, "circuit edge"]) -> Float[Tensor, " circuit"]:
        return (runs.scores(sets)[..., 0] - whole[:, None]).abs().nanmean(0) / scale

    with Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task("pruning edges", total=len(graph.targets))
        for number in reversed(range(len(graph.targets))):
            bar.advance(task)
            own = (target == number).nonzero().flatten()
            parts = graph.fed_by(number)
            if parts and bool(replaced[torch.isin(source, torch.tensor(parts))].all()):
                replaced[own] = True  # nothing reads what it writes
                continue
            alone = replaced.repeat(len(own), 1)
            alone[torch.arange(len(own)), own] = True
            cost[own] = costs(alone)
            order = own[cost[own].argsort(stable=True)]
            growing = replaced.repeat(len(order), 1)
            for place, edge in enumerate(order.tolist()):
                growing[place:, edge] = True
            grown = costs(growing)
            asked += 2 * len(own)
            steps = torch.diff(grown, prepend=torch.tensor([now])) < threshold
            gone = len(order) if bool(steps.all()) else int((~steps).int().argmax())
            replaced[order[:gone]] = True
            now = float(grown[gone - 1]) if gone else now
    left = runs.scores(replaced[None])[:, 0, 0]
    chosen = readout.metrics[0]
    return Pruning(
        metric=chosen.name,
        unit=chosen.unit,
        kind=kind,
        threshold=threshold,
        sources=tuple(graph.sources[i] for i in source.tolist()),
        targets=tuple(graph.targets[i] for i in target.tolist()),
        kept=~replaced,
        cost=cost,
        whole=whole,
        empty=empty,
        left=left,
        runs=asked + 1,
        groups=pairs.clean.groups,
    )
