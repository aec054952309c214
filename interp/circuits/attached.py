"""Transcoders attached to a model: their features become sites like any other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor

from interp.circuits.transcoders import Transcoders, read_by
from interp.errors import ModelError
from interp.models.features import FeatureSites, attach, detach
from interp.models.load import HookedTransformer, info
from interp.models.sweeps.blocks import UnknownForm, network


def attach_transcoders(model: HookedTransformer, transcoders: Transcoders) -> None:
    """Make `Site("features", layer)` a site of the model: to be captured, ablated, patched, added to.

    It stays so until other transcoders are attached or `detach_transcoders` is called; nothing else of the model
    changes. Raises ConfigError for a set that does not fit, ModelError for an unknown architecture.
    """
    try:
        norms = [block.ln2 for block in network(model).blocks]
    except UnknownForm as error:
        raise ModelError(f"transcoders cannot be attached to {info(model).name}: {error}") from None
    transcoders.check_fit(model)

    def read(layer: int, mid: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos feature"]:
        one = transcoders.layers[layer]
        return one.encode(read_by(norms[layer], mid, transcoders.reads).to(one.encoder.dtype)).to(mid.dtype)

    def write(layer: int, change: Float[Tensor, "row pos feature"]) -> list[Float[Tensor, "row pos d_model"]]:
        decoder = transcoders.layers[layer].decoder
        return [(change.to(decoder.dtype) @ decoder[:, up]).to(change.dtype) for up in range(decoder.shape[1])]

    attach(model, FeatureSites(tuple(one.size for one in transcoders.layers), read, write))


def detach_transcoders(model: HookedTransformer) -> None:
    """Take the features away again."""
    detach(model)


@contextmanager
def transcoders_attached(model: HookedTransformer, transcoders: Transcoders) -> Iterator[HookedTransformer]:
    """The model with features inside a block, without them after it."""
    attach_transcoders(model, transcoders)
    try:
        yield model
    finally:
        detach(model)
