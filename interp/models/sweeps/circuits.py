"""Runs in which some edges carry what another run wrote: path patching, and circuits of edges or of parts.

Rows (a prompt under one set of replaced edges) begin at the layer that first reads a replaced edge; below, everything
is the base run's. Where a layer reads no replaced edge it runs as always; where it does, every head's query, key and
value has an input of its own, all in one batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from rich.progress import Progress
from torch import Tensor

from interp.models.sweeps.blocks import Block, Linear, Network
from interp.models.sweeps.edges import Graph, written
from interp.models.sweeps.gradients import climbed
from interp.models.sweeps.grid import Readout
from interp.models.sweeps.runs import Runs


@dataclass(frozen=True, eq=False)
class EdgeRuns:
    """Some prompts' base run, and what every part wrote in the run that replaced edges are taken from."""

    runs: Runs
    readout: Readout
    index: Int[Tensor, " prompt"]
    """Numbers of these prompts."""
    entries: tuple[Float[Tensor, "prompt pos d_model"], ...]
    """The base run's stream before every layer."""
    apart: Float[Tensor, "prompt source pos d_model"]
    """What every part wrote in the base run, less what it wrote in the other."""
    other: Float[Tensor, "prompt source pos d_model"]
    graph: Graph = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "graph", Graph.of(self.runs.net))

    @classmethod
    def of(
        cls,
        runs: Runs,
        readout: Readout,
        index: Int[Tensor, " prompt"],
        other: Float[Tensor, "prompt source pos d_model"],
    ) -> EdgeRuns:
        """Run these prompts once more; `other` is what every part wrote elsewhere (zeros, a mean, another prompt's)."""
        entry = runs.entry[index, : other.shape[2]]
        places = climbed(runs.net, entry)
        entries = tuple(places["stream", layer] for layer in range(len(runs.net.blocks)))
        return cls(runs, readout, index, entries, written(runs.net, places, entry) - other, other)

    def scores(
        self, replaced: Bool[Tensor, "circuit edge"], *, memory: int, bar: Progress | None = None
    ) -> Float[Tensor, "prompt circuit metric"]:
        """Every metric of every prompt where these edges carry the other run's."""
        edges, layers = self.graph.edges, torch.arange(self.graph.n_layers + 1)
        lowest = torch.where(replaced, edges[:, 1] // self.graph.readers, self.graph.n_layers).amin(1)
        found: list[Tensor | None] = [None] * len(replaced)
        for layer in layers.tolist():
            chosen = (lowest == layer).nonzero().flatten()
            rows = max(1, memory // 2 // self._row_bytes(layer))
            for some in chosen.split(max(1, rows // len(self.index))) if len(chosen) else ():
                table = self._table(replaced[some])
                for part in torch.arange(len(self.index)).split(rows):
                    scores = self._climb(table, part.to(self.index.device), layer).cpu()
                    for place, number in enumerate(some.tolist()):
                        before = found[number]
                        found[number] = scores[place] if before is None else torch.cat([before, scores[place]])
        return torch.stack([one for one in found if one is not None], 1)

    def _table(self, replaced: Bool[Tensor, "circuit edge"]) -> Bool[Tensor, "circuit target source"]:
        source, target = self.graph.edges.unbind(1)
        shape = len(replaced), len(self.graph.targets), len(self.graph.sources)
        table = torch.zeros(shape, dtype=torch.bool)
        table[:, target, source] = replaced
        return table.to(self.apart.device)

    def _row_bytes(self, layer: int) -> int:
        net, graph, columns = self.runs.net, self.graph, self.apart.shape[2]
        d_model, d_mlp = net.unembedding.shape[1], net.blocks[0].down[0].shape[1]
        parts = (graph.n_layers - layer) * (graph.n_heads + 1) + 5 * graph.readers
        token = (parts + 8) * d_model + 3 * d_mlp + 4 * graph.n_heads * columns
        return columns * token * self.apart.element_size()

    def _climb(
        self, table: Bool[Tensor, "circuit target source"], prompts: Int[Tensor, " prompt"], layer: int
    ) -> Float[Tensor, "circuit prompt metric"]:
        net, graph, count = self.runs.net, self.graph, len(table)
        shared = self.apart[prompts]
        own: list[Tensor] = []
        """For each layer from the first on, what its heads and its MLP wrote, less what the other run's did."""
        last, known = graph.n_layers, 1 + layer * (graph.n_heads + 1)
        entry = self.entries[layer][prompts] if layer < last else self._end(prompts)
        stream = entry.repeat(count, 1, 1)

        def lacking(targets: slice) -> Float[Tensor, "row target pos d_model"] | None:
            """What the replaced edges into these targets take away from what they read."""
            part = table[:, targets].to(shared.dtype)
            if not bool(part.any()):
                return None
            below = einsum(part[..., :known], shared[:, :known], "c v s, p s x d -> c p v x d").flatten(0, 1)
            for done, block in enumerate(own):
                at = known + done * (graph.n_heads + 1)
                mask = part[..., at : at + block.shape[1]].repeat_interleave(len(prompts), 0)
                if bool(mask.any()):
                    below = below + einsum(mask, block, "r v s, r s x d -> r v x d")
            return below

        for number in range(layer, last):
            block, first = net.blocks[number], number * graph.readers
            source, mlp = 1 + number * (graph.n_heads + 1), first + graph.readers - 1
            other = self.other[prompts, source : source + graph.n_heads + 1].repeat(count, 1, 1, 1)
            z = self._attention(block, stream, lacking(slice(first, mlp)))
            own.append(rearrange(block.head_outs(z), "r x h d -> r h x d") - other[:, :-1])
            stream = stream + block.attn_out(z)
            away = lacking(slice(mlp, mlp + 1))
            read = stream if away is None else stream - away[:, 0]
            wrote = block.mlp_out(read.flatten(0, 1)).reshape(read.shape)
            own[-1] = torch.cat([own[-1], (wrote - other[:, -1])[:, None]], 1)
            stream = stream + wrote
        away = lacking(slice(last * graph.readers, last * graph.readers + 1))
        final = stream if away is None else stream - away[:, 0]
        rows = self.index[prompts].repeat(count)
        scores = self.runs.scores(self.readout, self.runs.at_reads(final, rows), rows)
        return scores.unflatten(0, (count, len(prompts)))

    def _end(self, prompts: Int[Tensor, " prompt"]) -> Float[Tensor, "prompt pos d_model"]:
        return self.runs.net.layer(self.runs.net.blocks[-1], self.entries[-1][prompts]).after

    def _attention(
        self,
        block: Block,
        stream: Float[Tensor, "row pos d_model"],
        away: Float[Tensor, "row target pos d_model"] | None,
    ) -> Float[Tensor, "row pos head d_head"]:
        """z, where every query, key and value may read a stream of its own."""
        net = self.runs.net
        if away is None:
            q, k, v = net.qkv(block, stream)
            return net.read(net.attends(block, q, k)[1], v)
        inputs = block.ln1.of(stream[:, None] - away).split((net.n_heads, net.n_kv, net.n_kv), 1)
        q, k, v = (_per_head(net, *both) for both in zip(inputs, (block.q, block.k, block.v), strict=True))
        return net.read(net.attends(block, q, k)[1], v)


def _per_head(
    net: Network, inputs: Float[Tensor, "row head pos d_model"], weights: Linear
) -> Float[Tensor, "row pos head d_head"]:
    weight, bias = weights
    found = einsum(inputs, net.by_head(weight), "r h x d, h e d -> r x h e")
    return found if bias is None else found + net.heads(bias)
