"""Gradients of a metric through the network's functions: one pass up, one down, every place on the way.

Weights take no gradient, so the way down costs what the way up does. What a head's query, key and value inputs have for
a gradient is told apart in closed form, from the gradients of q, k and v: no input is copied for each head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.models.sweeps.blocks import Layer, Network
from interp.models.sweeps.grid import Readout
from interp.models.sweeps.runs import Runs

Place = tuple[str, int]
"""A field of `Layer` and the layer's number; `("final", n_layers)` is the stream that is read."""


def climbed(
    net: Network,
    stream: Float[Tensor, "row pos d_model"],
    *,
    layer: int = 0,
    middle: bool = False,
    keep_pattern: bool = False,
    keep_neurons: bool = False,
    put: Mapping[str, Tensor] | None = None,
) -> dict[Place, Tensor]:
    """Everything computed from a layer on; with `middle` the stream enters between its attention and its MLP.

    What stands in `put` under a field's name is used in that first layer in its place.
    """
    found: dict[Place, Tensor] = {}
    if middle:
        found["mlp_in", layer] = mlp_in = stream.view_as(stream)
        stream = stream + net.blocks[layer].mlp_out(mlp_in.flatten(0, 1)).reshape(stream.shape)
        layer += 1
    for number in range(layer, len(net.blocks)):
        here = put if put is not None and number == layer else {}
        one = net.layer(net.blocks[number], stream, keep_pattern=keep_pattern, keep_neurons=keep_neurons, put=here)
        found |= {(part.name, number): getattr(one, part.name) for part in fields(Layer)}
        stream = one.after
    found["final", len(net.blocks)] = stream
    return found


def scored(
    runs: Runs, readout: Readout, places: Mapping[Place, Tensor], prompts: Int[Tensor, " row"]
) -> Float[Tensor, " row"]:
    """The first metric of each row. Raises ConfigError where it has no gradient though one is asked for."""
    final = places["final", len(runs.net.blocks)]
    found = runs.scores(readout, runs.at_reads(final, prompts), prompts)[:, 0]
    return differentiable(found, readout) if final.requires_grad else found


def differentiable(scores: Float[Tensor, " row"], readout: Readout) -> Float[Tensor, " row"]:
    """The scores themselves. Raises ConfigError where they have no gradient."""
    if not scores.requires_grad:
        raise ConfigError(f"the metric {readout.metrics[0].name} has no gradient; take logit_diff, log_prob or kl")
    return scores


def slopes(
    scores: Float[Tensor, " row"], places: Mapping[Place, Tensor], wanted: Sequence[Place]
) -> dict[Place, Tensor]:
    """The gradient of each row's score by what stands at some places; zero where a row has no score."""
    inputs = [places[place] for place in wanted]
    found = torch.autograd.grad(scores.nansum(), inputs, allow_unused=True)
    return {
        place: torch.zeros_like(one) if slope is None else slope
        for place, one, slope in zip(wanted, inputs, found, strict=True)
    }


def row_bytes(net: Network, columns: int) -> int:
    """Bytes that one row needs for its way up and down."""
    d_model, d_mlp = net.unembedding.shape[1], net.blocks[0].down[0].shape[1]
    layer = columns * (16 * d_model + 5 * d_mlp) + 6 * net.n_heads * columns**2
    return len(net.blocks) * layer * max(4, net.unembedding.element_size())
