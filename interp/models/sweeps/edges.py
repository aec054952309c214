"""The network as a graph: what every part writes, what every other part reads of it.

The residual stream is a sum, so each part that reads it (a head's query, key or value, an MLP, the logits) reads what
every part before it wrote (the embedding, a head, an MLP), and one of these *edges* can carry what another run wrote
while all others carry this run's (Goldowsky-Dill et al., "Path Patching", arXiv 2304.05969). The output
bias of attention is no part; an MLP writes its bias with the rest, a head that of its values. Where attention writes
through a norm (Gemma-2), a head's part is divided by the whole's scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.sweeps.blocks import Network
from interp.models.sweeps.gradients import Place


@dataclass(frozen=True)
class Graph:
    """Which parts write and which read."""

    n_layers: int
    n_heads: int
    n_kv: int

    @classmethod
    def of(cls, net: Network) -> Graph:
        """The graph of a network."""
        return cls(len(net.blocks), net.n_heads, net.n_kv)

    @property
    def sources(self) -> tuple[str, ...]:
        """Parts that write, from the bottom up: embed, L0H0, ..., mlp0, L1H0, ..."""
        layers = range(self.n_layers)
        return ("embed", *(n for at in layers for n in (*(f"L{at}H{h}" for h in range(self.n_heads)), f"mlp{at}")))

    @property
    def targets(self) -> tuple[str, ...]:
        """Parts that read, from the bottom up: L0H0.q, ..., L0H0.k, ..., mlp0, ..., logits.

        Keys and values count key-value heads, which a group of heads may share.
        """
        counts = {"q": self.n_heads, "k": self.n_kv, "v": self.n_kv}
        found: list[str] = []
        for at in range(self.n_layers):
            found += [f"L{at}H{head}.{kind}" for kind, count in counts.items() for head in range(count)]
            found.append(f"mlp{at}")
        return (*found, "logits")

    @property
    def readers(self) -> int:
        """Parts of one layer that read."""
        return self.n_heads + 2 * self.n_kv + 1

    def seen(self, target: int) -> int:
        """How many sources, the first ones, a target reads."""
        layer, within = divmod(target, self.readers)
        own = self.n_heads if layer < self.n_layers and within == self.readers - 1 else 0
        return 1 + layer * (self.n_heads + 1) + own

    def fed_by(self, target: int) -> list[int]:
        """The sources whose writing goes through a target: a key or a value serves every head of its group."""
        layer, within = divmod(target, self.readers)
        if layer == self.n_layers:
            return []
        below = self.seen(layer * self.readers)
        if within == self.readers - 1:
            return [below + self.n_heads]
        if within < self.n_heads:
            return [below + within]
        group = self.n_heads // self.n_kv
        first = below + (within - self.n_heads) % self.n_kv * group
        return list(range(first, first + group))

    @property
    def edges(self) -> Int[Tensor, "edge 2"]:
        """All edges as numbers of source and target, target by target."""
        counts = [self.seen(target) for target in range(len(self.targets))]
        sources = torch.cat([torch.arange(count) for count in counts])
        return torch.stack([sources, torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))], 1)


def written(
    net: Network, places: Mapping[Place, Tensor], entry: Float[Tensor, "row pos d_model"]
) -> Float[Tensor, "row source pos d_model"]:
    """What every part wrote in a run."""
    parts = [entry[:, None]]
    for layer, block in enumerate(net.blocks):
        parts.append(rearrange(block.head_outs(places["z", layer]), "row pos head d -> row head pos d"))
        parts.append(places["mlp_out", layer][:, None])
    return torch.cat(parts, 1)


def by_reader(
    net: Network, places: Mapping[Place, Tensor], found: Mapping[Place, Tensor], *, layer: int = 0
) -> Iterator[tuple[int, Float[Tensor, "row target pos d_model"]]]:
    """Gradients by what every part reads, from those by q, k, v, mlp_in and the final stream: the number of a target,
    and the gradients of it and of those after it.

    `layer` is the lowest whose MLP reads; attention is asked where its gradients are there.
    """
    width = net.n_heads + 2 * net.n_kv
    for number, block in enumerate(net.blocks[layer:], layer):
        first = number * (width + 1)
        if ("q", number) in found:
            inner = [
                einsum(found[name, number], net.by_head(weight), "row pos head e, head e d -> row head pos d")
                for name, (weight, _) in (("q", block.q), ("k", block.k), ("v", block.v))
            ]
            at = places["stream", number][:, None]
            yield first, block.ln1.pulled_back(torch.cat(inner, 1), at)
        yield first + width, found["mlp_in", number][:, None]
    last = len(net.blocks)
    yield last * (width + 1), found["final", last][:, None]


def readers_from(net: Network, layer: int, middle: bool = False) -> list[Place]:
    """The places whose gradients `by_reader` needs, from a layer on (or from its MLP)."""
    found: list[Place] = [("mlp_in", layer)] if middle else []
    for number in range(layer + middle, len(net.blocks)):
        found += [(name, number) for name in ("q", "k", "v", "mlp_in")]
    return [*found, ("final", len(net.blocks))]
