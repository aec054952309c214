"""Does a graph tell the truth? Some of its features are switched off and doubled, and what happens is compared with it.

*Frozen*: attention patterns, norm scales and all other features are held, so that edges must equal what happens, up to
rounding: the graph was made downwards and is checked by runs upwards. *Running*: the model itself, in which all of them
move; what the graph predicts for the logits, over all paths, is compared with what the model says. The gap is how far
the linear picture holds on this prompt; it is no error of the graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits.frozen import Frozen
from interp.circuits.graph import Graph, prepared
from interp.circuits.transcoders import Transcoders
from interp.errors import ConfigError
from interp.estimates import Estimate, rank_correlation, ratio
from interp.metrics import Metric, Targets
from interp.models.edits import Add, Edit
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY, undisturbed
from interp.models.sweeps import Edits, Readout, sweep
from interp.prompts import Prompts
from interp.sites import Site

FACTORS = (0.0, 2.0)
"""What activations are multiplied by: off, and doubled."""


@dataclass(frozen=True, eq=False)
class GraphCheck:
    """Predicted and real changes; the axis `factor` is that of `FACTORS`."""

    features: Int[Tensor, " sample"]
    """Numbers of the features in the graph."""
    frozen_error: Float[Tensor, " sample"]
    """Largest difference between an edge and the run with everything held, over that of all edges of the graph."""
    predicted: Float[Tensor, "sample factor logit"]
    """Change of the first read's logits, less that of their mean over the vocabulary, over all paths of the graph."""
    actual: Float[Tensor, "sample factor logit"]
    """The same in the running model."""

    def agreement(self) -> dict[str, Estimate]:
        """How predicted and real changes of the first logit agree: Spearman's correlation, and the mean of |predicted -
        actual| over the mean of |actual|. The sampled features count as independent."""
        predicted, actual = (part[..., 0].flatten() for part in (self.predicted, self.actual))
        groups = torch.arange(len(self.features)).repeat_interleave(len(FACTORS))
        return {
            "rank correlation": rank_correlation(predicted, actual, groups),
            "relative error": ratio((predicted - actual).abs(), actual.abs(), groups),
        }


def check_graph(
    model: HookedTransformer,
    transcoders: Transcoders,
    prompts: Prompts,
    graph: Graph,
    index: int = 0,
    *,
    sample: int = 24,
    seed: int = 0,
    memory: int = MEMORY,
) -> GraphCheck:
    """Check a graph (before any cap) of the prompt that it was made of, on features drawn at random."""
    if sample < 1:
        raise ConfigError(f"a check needs at least one feature, not {sample}")
    count = len(graph.features)
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:sample].sort().values
    one, runs, frozen = prepared(model, transcoders, prompts, index, memory)
    transcoders = transcoders.to(runs.entry.dtype)
    if graph.text != one.texts[0] or not torch.equal(graph.tokens, one.tokens[0, : len(graph.tokens)]):
        raise ConfigError("the graph is of another prompt; give the prompts and the index that it was made with")
    with undisturbed(model):
        found = _frozen(frozen, transcoders, graph, chosen)
    size = graph.edges[:, :count].abs().max() if count else torch.ones(())
    error = (found - graph.edges[:, chosen].T).abs().amax(1) / size.clamp(min=torch.finfo(torch.float32).tiny)
    factors = torch.tensor(FACTORS) - 1
    predicted = factors[None, :, None] * _total(graph)[:, None, chosen].permute(2, 1, 0).cpu()
    cells = [
        [Edit(Site("mlp_out", layer + up), Add(scale * graph.activations[number] * row), at=column)
         for up, row in enumerate(transcoders.layers[layer].decoder[feature])]
        for number in chosen.tolist()
        for layer, column, feature in [graph.features[number].tolist()]
        for scale in factors.tolist()
    ]  # fmt: skip
    actual = torch.zeros_like(predicted)
    if cells:
        actual = _logits(model, one, graph, cells, runs.net.cap, memory).unflatten(0, (len(chosen), len(FACTORS)))
    return GraphCheck(chosen, error.cpu(), predicted, actual)


def _frozen(
    frozen: Frozen, transcoders: Transcoders, graph: Graph, chosen: Int[Tensor, " sample"]
) -> Float[Tensor, "sample target"]:
    """What these features add to every target, carried upwards."""
    net, features, size = frozen.net, graph.features, graph.activations
    at_layer = [(features[:, 0] == layer).nonzero().flatten() for layer in range(graph.n_layers)]
    change = frozen.final.new_zeros(len(chosen), *frozen.final.shape)
    found = frozen.final.new_zeros(len(chosen), len(graph.values))
    place = features[chosen]
    for layer, one in enumerate(transcoders.layers):
        change = change + frozen.attention_up(layer, change)
        inputs = frozen.inputs_up(layer, change)
        targets = at_layer[layer]
        rows = one.encoder[features[targets, 2]]
        found[:, targets] = torch.einsum("rtd,td->rt", inputs[:, features[targets, 1]], rows)
        if one.skip is not None:
            change = change + inputs @ one.skip.T
        for row, (below, column, feature) in enumerate(place.tolist()):
            decoder = transcoders.layers[below].decoder
            if 0 <= layer - below < decoder.shape[1]:
                change[row, column] += size[chosen[row]] * decoder[feature, layer - below]
    final = net.ln_final.held(change[:, graph.read], net.ln_final.scale(frozen.final[graph.read]))
    found[:, len(features) :] = final @ (net.unembedding[graph.logits] - net.unembedding.mean(0)).T
    return found


def _total(graph: Graph) -> Float[Tensor, "logit feature"]:
    """What each feature adds to each logit over all paths: a feature in between passes on as much as it gets."""
    count = len(graph.features)
    share = graph.edges[:, :count].double() / graph.activations.double().clamp(min=torch.finfo(torch.float32).tiny)
    among = torch.eye(count, dtype=torch.float64, device=share.device) - share[:count]
    solved = torch.linalg.solve_triangular(among.T, share[count:].T, upper=True).T
    return (solved * graph.activations).float()


def _logits(
    model: HookedTransformer, prompt: Prompts, graph: Graph, cells: list[list[Edit]], cap: float | None, memory: int
) -> Float[Tensor, "cell logit"]:
    """How the running model's logits change, each less the mean of all, before a soft cap."""

    def centred(token: int) -> Metric:
        def score(logits: Tensor, targets: Targets) -> Tensor:
            raw = logits if cap is None else cap * torch.atanh(logits / cap)
            return raw[..., token] - raw.mean(-1)

        return Metric(f"logit {token}", "logits", score, "mean", read=0)

    tokens = graph.logits.tolist()
    readout = Readout(tuple(map(centred, tokens)), Targets(torch.full_like(prompt.reads, tokens[0])))
    found = sweep(model, Edits(prompt, cells), readout, memory=memory)
    return (found.values - found.base[:, None])[0].float()
