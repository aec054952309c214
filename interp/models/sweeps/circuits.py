"""Runs in which some edges carry what another run wrote: path patching, and circuits of edges or of parts.

Rows (a prompt under one set of replaced edges) begin at the layer that first reads a replaced edge; below, everything
is the base run's. Where a layer reads no replaced edge it runs as always; where it does, every head's query, key and
value has an input of its own, all in one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from rich.progress import Progress
from torch import Tensor

from interp.errors import ConfigError, ModelError, PromptError
from interp.models.load import HookedTransformer, info
from interp.models.run import MEMORY, check_context, undisturbed
from interp.models.sweeps.blocks import Block, Linear, Network, UnknownForm
from interp.models.sweeps.edges import Graph, written
from interp.models.sweeps.gradients import climbed
from interp.models.sweeps.grid import Readout
from interp.models.sweeps.runs import Runs
from interp.prompts import Prompts


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

    def scores(self, replaced: Bool[Tensor, "circuit edge"], *, memory: int) -> Float[Tensor, "prompt circuit metric"]:
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
            return net.attended(block, q, k, v)[1]
        inputs = block.ln1.of(stream[:, None] - away).split((net.n_heads, net.n_kv, net.n_kv), 1)
        q, k, v = (_per_head(net, *both) for both in zip(inputs, (block.q, block.k, block.v), strict=True))
        return net.attended(block, q, k, v)[1]


def _per_head(
    net: Network, inputs: Float[Tensor, "row head pos d_model"], weights: Linear
) -> Float[Tensor, "row pos head d_head"]:
    weight, bias = weights
    found = einsum(inputs, net.by_head(weight), "r h x d, h e d -> r x h e")
    return found if bias is None else found + net.heads(bias)


Kind = Literal["counterfactual", "zero", "mean", "resample"]
"""What a replaced edge carries: the paired run's, nothing, the mean over like prompts, or one of theirs."""


@dataclass(frozen=True, eq=False)
class Replacements:
    """All prompts with what replaced edges carry, ready to be run under any sets of edges."""

    model: HookedTransformer
    runs: Runs
    readout: Readout
    kind: Kind
    source: Runs | None
    """The paired run."""
    partner: Int[Tensor, " prompt"] | None
    memory: int

    @classmethod
    def of(
        cls,
        model: HookedTransformer,
        base: Prompts,
        source: Prompts,
        readout: Readout,
        kind: Kind = "counterfactual",
        *,
        seed: int = 0,
        memory: int = MEMORY,
    ) -> Replacements:
        """Raises ModelError for an architecture whose parts are not known."""
        if kind not in get_args(Kind):
            raise ConfigError(f"an edge is replaced by {', '.join(get_args(Kind))}, not {kind!r}")
        check_context(model, base)
        readout.check(model, base)
        try:
            runs = Runs.of(model, base, memory=memory)
        except UnknownForm as error:
            raise ModelError(f"the edges of {info(model).name} cannot be told apart: {error}") from None
        other = None
        if kind == "counterfactual":
            check_context(model, source)
            other = Runs.of(model, source, memory=memory, like=runs)
        partner = base.partners(seed) if kind == "resample" else None
        found = cls(model, runs, readout, kind, other, partner, memory)
        if bool(found.missing.all()):
            raise PromptError(f"no prompt has another one of its layout to take a {kind} from; use zero")
        return found

    @property
    def graph(self) -> Graph:
        """Which parts write and read."""
        return Graph.of(self.runs.net)

    @property
    def missing(self) -> Bool[Tensor, " prompt"]:
        """Prompts that there is nothing to write for."""
        if self.partner is not None:
            return self.partner < 0
        return _lonely(self.runs.prompts) if self.kind == "mean" else torch.zeros(len(self.runs.ends), dtype=torch.bool)

    def scores(
        self, replaced: Bool[Tensor, "circuit edge"], *, progress: bool = False
    ) -> Float[Tensor, "prompt circuit metric"]:
        """Every metric of every prompt where these edges carry something else; nan where there is nothing to write."""
        n = len(self.runs.ends)
        found = torch.full((n, len(replaced), len(self.readout.metrics)), torch.nan)
        with undisturbed(self.model), Progress(transient=True, disable=not progress) as bar:
            task = bar.add_task("replacing edges", total=n)
            for some, other in self._tiles():
                one = EdgeRuns.of(self.runs, self.readout, some, other)
                found[some.cpu()] = one.scores(replaced, memory=self.memory // 2).float()
                bar.advance(task, len(some))
        return found.clone().masked_fill(self.missing[:, None, None], torch.nan)

    def ends(self) -> tuple[Float[Tensor, " prompt"], Float[Tensor, " prompt"]]:
        """The first metric of the model as it is, and with every edge replaced. Raises PromptError where they agree."""
        nothing = torch.zeros(1, len(self.graph.edges), dtype=torch.bool)
        whole, empty = self.scores(torch.cat([nothing, ~nothing]))[..., 0].unbind(1)
        if not float((whole - empty).abs().nanmean()) > 1e-5 * float(whole.abs().nan_to_num().max()):
            name = self.readout.metrics[0].name
            raise PromptError(
                f"replacing all edges ({self.kind}) leaves {name} as it is, so a circuit has nothing to keep; do clean "
                "and corrupted prompts differ?"
            )
        return whole, empty

    def apart(self) -> Float[Tensor, " source"]:
        """How far what each part writes differs from what would replace it: the mean length over tokens."""
        total = torch.zeros(len(self.graph.sources), dtype=torch.float64)
        with undisturbed(self.model):
            for some, other in self._tiles():
                one = EdgeRuns.of(self.runs, self.readout, some, other)
                inside = torch.arange(other.shape[2], device=other.device) < self.runs.ends[some][:, None]
                total += (one.apart.norm(dim=-1) * inside[:, None]).sum((0, 2)).double().cpu()
        return (total / float(self.runs.ends[~self.missing.to(self.runs.ends.device)].sum())).clone()

    def _tiles(self) -> Iterator[tuple[Int[Tensor, " prompt"], Float[Tensor, "prompt source pos d_model"]]]:
        entry, ends = self.runs.entry, self.runs.ends
        parts = len(self.graph.sources)
        most = max(1, self.memory // (8 * parts * entry.shape[1] * entry.shape[2] * max(4, entry.element_size())))
        if self.kind == "mean":
            yield from self._means(most)
            return
        order = ends.argsort(stable=True)
        for some in order[~self.missing.to(order.device)[order]].split(most):
            if self.kind == "zero":
                columns = int(ends[some].max())
                yield some, entry.new_zeros(()).expand(len(some), parts, columns, entry.shape[2])
            else:
                yield some, self._written(some if self.partner is None else self.partner.to(some.device)[some])

    def _means(self, most: int) -> Iterator[tuple[Int[Tensor, " prompt"], Float[Tensor, "prompt source pos d_model"]]]:
        """For each prompt the mean over the others of its layout: a sum over them all, then less its own."""
        layout = self.runs.prompts.layout.to(self.runs.ends.device)
        for number in range(int(layout.max()) + 1):
            members = (layout == number).nonzero().flatten()
            if len(members) < 2:
                continue
            tiles = members.split(most)
            total = torch.stack([self._written(some).sum(0) for some in tiles]).sum(0)
            for some in tiles:
                yield some, (total - self._written(some)) / (len(members) - 1)

    def _written(self, rows: Int[Tensor, " prompt"]) -> Float[Tensor, "prompt source pos d_model"]:
        side = self.source or self.runs
        stream = side.entry[rows, : int(side.ends[rows].max())]
        return written(side.net, climbed(side.net, stream), stream)


def _lonely(prompts: Prompts) -> Bool[Tensor, " prompt"]:
    layout = prompts.layout
    return torch.bincount(layout)[layout] < 2
