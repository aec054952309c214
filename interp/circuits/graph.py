"""Attribution graphs: how much of each feature's input, and of each answer's logit, comes from what.

Nodes are the active features, the errors of the transcoders, the tokens, the likely answers, and all biases; an edge is
what the source writes times how the target reads it, with attention patterns and norm scales held (Ameisen et al.,
"Circuit Tracing", 2025). All edges into a node sum to its pre-activation: nothing is dropped. All targets are carried
down the network together, one layer at a time, as gradients in closed form.

An edge says what a source adds to a target on this prompt. It does not say why attention looked where it did.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from interp.circuits.frozen import Frozen
from interp.circuits.transcoders import Transcoders
from interp.errors import ConfigError, ModelError, PromptError
from interp.models.load import HookedTransformer, info
from interp.models.run import MEMORY, check_context, undisturbed
from interp.models.sweeps.blocks import UnknownForm
from interp.models.sweeps.runs import Runs
from interp.prompts import Prompts

_FEWEST = 128
"""Targets carried down together, where there are so many: fewer make small products."""


@dataclass(frozen=True, eq=False)
class Graph:
    """The graph of one prompt. Targets are its features, then its logits."""

    text: str
    tokens: Int[Tensor, " pos"]
    read: int
    """Column whose logits are explained."""
    n_layers: int
    features: Int[Tensor, "feature three"]
    """Layer, column and number of each."""
    activations: Float[Tensor, " feature"]
    logits: Int[Tensor, " logit"]
    """Token ids."""
    probabilities: Float[Tensor, " logit"]
    values: Float[Tensor, " target"]
    """Pre-activations, and logits less their mean over the vocabulary (before a soft cap)."""
    edges: Float[Tensor, "target source"]
    """From features, errors (layer by column), tokens and biases, in this order."""

    @property
    def sources(self) -> tuple[int, int, int, int]:
        """How many features, errors, tokens and biases there are."""
        return len(self.features), self.n_layers * len(self.tokens), len(self.tokens), 2 * self.n_layers + 2

    @property
    def biases(self) -> tuple[str, ...]:
        """Names of the last sources: each the same at all columns together."""
        layers = range(self.n_layers)
        return (*(f"attention {at}" for at in layers), *(f"decoder {at}" for at in layers), "position", "own")


def attribution_graph(
    model: HookedTransformer,
    transcoders: Transcoders,
    prompts: Prompts,
    index: int = 0,
    *,
    logits: int = 10,
    mass: float = 0.95,
    memory: int = MEMORY,
) -> Graph:
    """The whole graph of one of the prompts, up to the first column that it reads.

    The answers are the fewest tokens that have `mass` of the probability, at most `logits`.
    """
    if logits < 1 or not 0 < mass <= 1:
        raise ConfigError("a graph explains at least one logit, and a mass above 0 and at most 1")
    one, runs, frozen = prepared(model, transcoders, prompts, index, memory)
    transcoders = transcoders.to(runs.entry.dtype)
    with undisturbed(model):
        entry = frozen.layers[0].stream[0]
        # Learned positions are a bias; what other forms embed is the tokens alone.
        embedded = entry if runs.net.rotary else model.W_E.detach()[one.tokens[0, : len(entry)].to(entry.device)]
        return _Tracer(frozen, transcoders, entry, embedded, one, int(runs.reads[0, 0])).graph(logits, mass, memory)


def prepared(
    model: HookedTransformer, transcoders: Transcoders, prompts: Prompts, index: int, memory: int
) -> tuple[Prompts, Runs, Frozen]:
    """One of the prompts, run once. Raises ModelError for an unknown architecture."""
    transcoders.check_fit(model)
    one = _read_once(prompts.take([index]))
    check_context(model, one)
    try:
        runs = Runs.of(model, one, memory=memory)
    except UnknownForm as error:
        raise ModelError(f"the graph of {info(model).name} cannot be drawn: {error}") from None
    with undisturbed(model):
        return one, runs, Frozen.of(runs.net, runs.entry[0, : int(runs.ends[0])], transcoders.reads)


def _read_once(prompt: Prompts) -> Prompts:
    """The prompt with the first of its reads that it has."""
    there = (prompt.reads[0] >= 0).nonzero().flatten()
    if not len(there):
        raise PromptError("a graph explains the logits at a column that the prompt reads, and this one reads none")
    return prompt.reading([prompt.read_names[int(there[0])]])


class _Tracer:
    """One prompt's sources and targets."""

    def __init__(
        self,
        frozen: Frozen,
        transcoders: Transcoders,
        entry: Float[Tensor, "pos d_model"],
        embedded: Float[Tensor, "pos d_model"],
        prompt: Prompts,
        read: int,
    ):
        self.frozen, self.net, self.transcoders, self.prompt, self.read = frozen, frozen.net, transcoders, prompt, read
        self.entry, self.embedded = entry, embedded
        self.columns, self.n_layers = len(entry), len(frozen.layers)
        inputs = [frozen.inputs(layer) for layer in range(self.n_layers)]
        active, written = transcoders.reconstruct(inputs)
        self.errors = [here.mlp_out[0] - own for here, own in zip(frozen.layers, written, strict=True)]
        self.features = torch.cat(
            [torch.cat([torch.full((len(hit), 1), layer), hit], 1) for layer, hit in enumerate(map(_hits, active))]
        )
        place = self.features.split([int((one > 0).sum()) for one in active])
        self.activations = torch.cat([one[hit[:, 1], hit[:, 2]] for one, hit in zip(active, place, strict=True)])
        self.own = [
            one.before(x)[hit[:, 1], hit[:, 2]] for one, x, hit in zip(transcoders.layers, inputs, place, strict=True)
        ]
        self.place = place
        self.writers = [self._writers(layer) for layer in range(self.n_layers)]

    def graph(self, most: int, mass: float, memory: int) -> Graph:
        logits = self.net.logits(self.frozen.final[self.read]).float()
        order = logits.softmax(-1).sort(descending=True)
        count = min(most, int((order.values.cumsum(0) < mass).sum()) + 1)
        chosen, chances = order.indices[:count], order.values[:count]
        rows, values, owned = self._logit_rows(chosen)
        layer, pos = self.features[:, 0], self.features[:, 1]
        layer = torch.cat([layer, torch.full((count,), self.n_layers)])
        pos = torch.cat([pos, torch.full((count,), self.read)])
        sources = (len(self.features), self.n_layers * self.columns, self.columns, 2 * self.n_layers + 2)
        edges = self.entry.new_zeros(len(layer), sum(sources))
        for some in self._tiles(layer, pos, memory):
            self._carry(some, layer[some], pos[some], rows, edges)
        encoders = torch.cat([self._encoder_bias(at) for at in range(self.n_layers)])
        edges[:, -1] = torch.cat([encoders, owned])
        token = self.prompt.tokens[0, : self.columns]
        return Graph(
            self.prompt.texts[0], token, self.read, self.n_layers, self.features, self.activations, chosen, chances,
            torch.cat([*self.own, values]), edges,
        )  # fmt: skip

    def _logit_rows(
        self, tokens: Int[Tensor, " logit"]
    ) -> tuple[Float[Tensor, "logit d_model"], Float[Tensor, " logit"], Float[Tensor, " logit"]]:
        """Gradients of logits less their mean by the last stream, their values, and what of them is bias."""
        net = self.net
        apart = net.unembedding[tokens] - net.unembedding.mean(0)
        bias = net.unembedding_bias
        lifted = apart.new_zeros(len(tokens)) if bias is None else bias[tokens] - bias.mean()
        values = apart @ net.ln_final.of(self.frozen.final[self.read]) + lifted
        own = apart @ net.ln_final.of(torch.zeros_like(self.frozen.final[0])) + lifted
        return self.frozen.final_down(self.read, apart), values, own

    def _encoder_bias(self, layer: int) -> Float[Tensor, " feature"]:
        one, hit = self.transcoders.layers[layer], self.place[layer][:, 2]
        return one.encoder[hit] @ self.frozen.inputs_bias(layer) + one.encoder_bias[hit]

    def _tiles(
        self, layer: Int[Tensor, " target"], pos: Int[Tensor, " target"], memory: int
    ) -> Iterator[Int[Tensor, " target"]]:
        """Targets of like columns, the highest layers first, as many as the budget holds."""
        width = self.columns * self.entry.shape[1] * self.entry.element_size() * 6
        most = max(1, memory // width)
        start = 0
        order = pos.argsort(stable=True)
        at = pos[order]
        while start < len(order):
            stop = min(len(order), start + min(_FEWEST, most))
            stop = min(start + most, int(torch.searchsorted(at, at[stop - 1], right=True)))
            some = order[start:stop]
            yield some[layer[some].argsort(descending=True, stable=True)]
            start = stop

    def _writers(self, layer: int) -> tuple[Int[Tensor, "pos slot"], Float[Tensor, "pos d_model written"]]:
        """What features write to a layer, column by column: their numbers (-1 where there is none), and the vectors.

        Behind them the layer's error, and what it writes whatever it reads.
        """
        number, vectors, at = [], [], []
        first = 0
        for below in range(layer + 1):
            one, hit = self.transcoders.layers[below], self.place[below]
            if layer - below < one.decoder.shape[1]:
                number.append(torch.arange(first, first + len(hit)))
                vectors.append(one.decoder[hit[:, 2], layer - below] * self.activations[first : first + len(hit), None])
                at.append(hit[:, 1])
            first += len(hit)
        where = torch.cat(at)
        order = where.argsort(stable=True)
        counts = where.bincount(minlength=self.columns).tolist()
        numbers = torch.cat(number)[order].split(counts)
        rows = torch.cat(vectors)[order].split(counts)
        slots = pad_sequence(list(numbers), batch_first=True, padding_value=-1)
        own = self.transcoders.layers[layer]
        constant = own.decoder_bias
        if own.skip is not None:
            constant = constant + own.skip @ self.frozen.inputs_bias(layer)
        rest = torch.stack([self.errors[layer], constant.expand(self.columns, -1)], 1)
        return slots, torch.cat([pad_sequence(list(rows), batch_first=True), rest], 1).transpose(1, 2)

    def _carry(
        self,
        some: Int[Tensor, " target"],
        layer: Int[Tensor, " target"],
        pos: Int[Tensor, " target"],
        logits: Float[Tensor, "logit d_model"],
        edges: Float[Tensor, "node source"],
    ) -> None:
        """Carry some targets, the highest first, down all layers, and write what each source adds to them."""
        frozen, n, total = self.frozen, self.n_layers, len(self.features)
        columns, width = int(pos.max()) + 1, self.entry.shape[1]
        count = int((layer == n).sum())
        slope = self.entry.new_zeros(columns, count, width)
        slope[pos[:count], torch.arange(count)] = logits[some[:count] - total]
        tokens = total + n * self.columns
        bias = tokens + self.columns
        for at in reversed(range(n)):
            if count:
                self._written(at, slope, some[:count], edges)
                skip = self.transcoders.layers[at].skip
                if skip is not None:
                    slope = slope + frozen.inputs_down(at, slope @ skip)
            own = (layer == at).nonzero().flatten()
            if len(own):
                read = self.transcoders.layers[at].encoder[self.features[some[own], 2]]
                fresh = self.entry.new_zeros(columns, len(own), width)
                for p in pos[own].unique().tolist():
                    mine = pos[own] == p
                    fresh[p, mine] = frozen.inputs_down(at, read[mine][None], first=p)[0]
                slope = torch.cat([slope, fresh], 1)
                count += len(own)
            if not count:
                continue
            edges[some[:count], bias + at] = torch.einsum("ptd,pd->t", slope, frozen.attention_bias(at)[:columns])
            slope = frozen.attention_down(at, slope)
        embedded = self.embedded
        edges[some[:, None], torch.arange(tokens, tokens + columns)] = torch.einsum(
            "ptd,pd->tp", slope, embedded[:columns]
        )
        apart = (self.entry - embedded)[:columns]
        edges[some, bias + 2 * n] = torch.einsum("ptd,pd->t", slope, apart)

    def _written(
        self,
        at: int,
        slope: Float[Tensor, "pos target d_model"],
        some: Int[Tensor, " target"],
        edges: Float[Tensor, "node source"],
    ) -> None:
        """What features, the error and the decoder's bias of a layer add to targets above it."""
        columns, total = len(slope), len(self.features)
        slots, vectors = (part[:columns] for part in self.writers[at])
        found, errors, constant = (slope @ vectors).tensor_split([slots.shape[1], slots.shape[1] + 1], 2)
        real = slots >= 0
        numbers = slots[real]
        if len(numbers):
            edges[some[:, None], numbers] += found.transpose(1, 2)[real].T
        error = total + at * self.columns
        edges[some[:, None], torch.arange(error, error + columns)] = errors[..., 0].T
        bias = total + (self.n_layers + 1) * self.columns + self.n_layers
        edges[some, bias + at] = constant[..., 0].sum(0)


def _hits(active: Float[Tensor, "pos feature"]) -> Int[Tensor, "hit two"]:
    return (active > 0).nonzero()
