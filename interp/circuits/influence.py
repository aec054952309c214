"""What of a graph matters for the answer: influence, scores, a cap on features, and pruning.

Influence, replacement and completeness scores and pruning are those of Ameisen et al. ("Circuit Tracing", 2025): the
share of a node's input, in size, that each source has, followed along all paths up to the logits. Biases have no part
in it: they are the same on every prompt. Influence counts sizes, so two large paths that cancel out both have it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.circuits.graph import Graph
from interp.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Influence:
    """How much of the answer comes through each node; sums over all paths, of shares of inputs."""

    features: Float[Tensor, " feature"]
    errors: Float[Tensor, " error"]
    tokens: Float[Tensor, " token"]
    logits: Float[Tensor, " logit"]
    """Their share of the probability of all logits of the graph."""
    edges: Float[Tensor, "target source"]
    """Influence that passes along each edge, biases left out."""

    @property
    def replacement(self) -> float:
        """Share of the influence that begins at tokens and not at errors: what the features explain from end to end."""
        tokens, errors = float(self.tokens.sum()), float(self.errors.sum())
        return tokens / (tokens + errors) if tokens + errors else float("nan")

    @property
    def completeness(self) -> float:
        """Share of the nodes' inputs, weighted by their influence, that is not error."""
        total = self.edges.sum()
        first = len(self.features)
        return float(1 - self.edges[:, first : first + len(self.errors)].sum() / total) if total else float("nan")


def influence(graph: Graph) -> Influence:
    """Of every node and edge: features stand layer by layer, so that one triangular solve sums all paths."""
    features, errors, tokens, _ = graph.sources
    size = graph.edges[:, : features + errors + tokens].abs().double()
    share = size / size.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    logits = (graph.probabilities / graph.probabilities.sum()).double()
    direct = logits @ share[features:, :features]
    among = torch.eye(features, dtype=torch.float64) - share[:features, :features].cpu()
    own = torch.linalg.solve_triangular(among.T, direct[:, None].cpu(), upper=True)[:, 0].to(share.device)
    edges = torch.cat([own, logits])[:, None] * share
    ends = edges[:, features:].sum(0)
    return Influence(own.float(), ends[:errors].float(), ends[errors:].float(), logits.float(), edges.float())


def capped(graph: Graph, most: int) -> tuple[Graph, float]:
    """The graph with its `most` most influential features, and the share of features' influence that the others had.

    What the others wrote goes to the error of their layer and column, so that every node's inputs still sum to its
    pre-activation. Influence is that of the whole graph.
    """
    if most < 1:
        raise ConfigError(f"a graph keeps at least one feature, not {most}")
    features = len(graph.features)
    if features <= most:
        return graph, 0.0
    size = influence(graph).features
    kept = torch.zeros(features, dtype=torch.bool)
    kept[size.argsort(descending=True, stable=True)[:most].cpu()] = True
    gone = (~kept).nonzero().flatten()
    columns = len(graph.tokens)
    edges = graph.edges.clone()
    place = features + graph.features[gone, 0] * columns + graph.features[gone, 1]
    edges.index_add_(1, place.to(edges.device), edges[:, gone])
    rows = torch.cat([kept, torch.ones(len(graph.logits), dtype=torch.bool)])
    sources = torch.cat([kept, torch.ones(edges.shape[1] - features, dtype=torch.bool)])
    less = replace(
        graph, features=graph.features[kept], activations=graph.activations[kept], values=graph.values[rows],
        edges=edges[rows][:, sources],
    )  # fmt: skip
    return less, float(size[gone].sum() / size.sum()) if float(size.sum()) else 0.0


@dataclass(frozen=True, eq=False)
class Pruned:
    """Which nodes and edges are left."""

    influence: Influence
    """Of the graph before pruning."""
    features: Bool[Tensor, " feature"]
    errors: Bool[Tensor, " error"]
    tokens: Bool[Tensor, " token"]
    edges: Bool[Tensor, "target source"]
    """Biases left out."""


def prune(graph: Graph, *, nodes: float = 0.8, edges: float = 0.98) -> Pruned:
    """Keep the fewest nodes with this share of all influence, the fewest edges among them, and no loose ends.

    A feature that nothing comes into or out of goes, and what hung on it. Logits stay; tokens and errors stay where an
    edge of theirs does.
    """
    if not (0 < nodes <= 1 and 0 < edges <= 1):
        raise ConfigError(f"thresholds of pruning are shares above 0 and at most 1, not {nodes} and {edges}")
    found = influence(graph)
    features, errors, tokens = len(found.features), len(found.errors), len(found.tokens)
    size = torch.cat([found.features, found.errors, found.tokens])
    left = _fewest(size, nodes)
    left[features + errors :] = True
    rows = torch.cat([left[:features], torch.ones(len(graph.logits), dtype=torch.bool, device=left.device)])
    among = graph.edges[:, : len(size)].abs() * left * rows[:, None]
    share = among / among.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    passes = torch.cat([found.features, found.logits])[:, None] * share
    kept = _fewest(passes.flatten(), edges).view_as(passes) & (among > 0)
    while True:
        alive = kept[:features].any(1) & kept[:, :features].any(0)
        rows = torch.cat([alive, torch.ones(len(graph.logits), dtype=torch.bool, device=alive.device)])
        sources = torch.cat([alive, torch.ones(errors + tokens, dtype=torch.bool, device=alive.device)])
        less = kept & rows[:, None] & sources
        if torch.equal(less, kept):
            break
        kept = less
    ends = kept[:, features:].any(0)
    return Pruned(found, alive, ends[:errors], ends[errors:], kept)


def _fewest(size: Float[Tensor, " one"], share: float) -> Bool[Tensor, " one"]:
    """The fewest, the largest first, that together have this share of the whole."""
    total = size.sum(dtype=torch.float64)
    # Those below this, all together, lack less than what may be left out.
    among = (size > (1 - share) * float(total) / len(size)).nonzero().flatten()
    order = among[size[among].argsort(descending=True, stable=True)]
    before = size[order].double().cumsum(0) - size[order]
    found = torch.zeros(len(size), dtype=torch.bool, device=size.device)
    found[order[before < share * total]] = True
    return found
