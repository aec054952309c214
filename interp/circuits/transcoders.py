"""Transcoders: a sparse, wide stand-in for each MLP, whose features can be read one by one.

A feature reads the MLP's input along its encoder row and writes its activation times its decoder row where the MLP
writes. Per-layer transcoders are those of Dunefsky et al. (arXiv 2406.11944); with a *skip*, a linear map beside the
features, of Paulo et al. (arXiv 2501.18823); *cross-layer* ones, whose features also write to all layers above, of
Ameisen et al. ("Circuit Tracing", 2025). What a set does not reconstruct is its error: features explain the rest only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from interp.errors import ConfigError
from interp.models.load import HookedTransformer
from interp.models.sweeps.blocks import Norm

Reads = Literal["resid_mid", "normalized", "mlp_in"]
"""What features read: the stream, the stream over the scale of the MLP's norm, or what that norm gives."""


def read_by(norm: Norm, mid: Float[Tensor, "... d_model"], reads: Reads) -> Float[Tensor, "... d_model"]:
    """What features read of the stream between attention and MLP, whose norm is given."""
    if reads == "resid_mid":
        return mid
    return norm.of(mid) if reads == "mlp_in" else norm.tidy(mid) / norm.scale(mid)


@dataclass(frozen=True, eq=False)
class Transcoder:
    """The features of one layer."""

    encoder: Float[Tensor, "feature d_model"]
    encoder_bias: Float[Tensor, " feature"]
    decoder: Float[Tensor, "feature written d_model"]
    """To this layer and, for a cross-layer transcoder, to every layer above."""
    decoder_bias: Float[Tensor, " d_model"]
    """Of what this layer's MLP writes."""
    threshold: Float[Tensor, " feature"] | None = None
    """JumpReLU: below this a feature is silent (Rajamanoharan et al., arXiv 2407.14435)."""
    k: int | None = None
    """TopK: all but the k largest are silent (Gao et al., arXiv 2406.04093)."""
    skip: Float[Tensor, "d_model d_model"] | None = None
    """[out, in]."""

    def before(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... feature"]:
        """Pre-activations."""
        return F.linear(x, self.encoder, self.encoder_bias)

    def active(self, before: Float[Tensor, "... feature"]) -> Float[Tensor, "... feature"]:
        """Activations, never below 0, from pre-activations."""
        found = before.relu()
        if self.threshold is not None:
            found = torch.where(before > self.threshold, found, 0.0)
        if self.k is not None and self.k < before.shape[-1]:
            kept = found.topk(self.k, -1)
            found = torch.zeros_like(found).scatter(-1, kept.indices, kept.values)
        return found

    def encode(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... feature"]:
        """Activations."""
        return self.active(self.before(x))

    @property
    def size(self) -> int:
        """Features."""
        return len(self.encoder)


@dataclass(frozen=True, eq=False)
class Transcoders:
    """A transcoder for every layer of a model."""

    layers: tuple[Transcoder, ...]
    reads: Reads = "mlp_in"
    name: str = ""
    before_norm: bool = False
    """Whether features write what the MLP gives before a norm behind it, as Gemma-2 has one; else behind that norm."""

    def __post_init__(self) -> None:
        widths = {one.encoder.shape[1] for one in self.layers} | {one.decoder.shape[2] for one in self.layers}
        if len(widths) != 1:
            raise ConfigError(f"transcoders of one model have one width, not {sorted(widths)}")
        total = len(self.layers)
        for number, one in enumerate(self.layers):
            if one.decoder.shape[1] not in (1, total - number):
                raise ConfigError(
                    f"features of layer {number} write to {one.decoder.shape[1]} layers, not to 1 or {total - number}"
                )

    def check_fit(self, model: HookedTransformer) -> None:
        """Raise ConfigError where they cannot be those of this model."""
        n_layers, d_model = int(model.cfg.n_layers), int(model.cfg.d_model)
        if len(self.layers) != n_layers:
            raise ConfigError(f"{len(self.layers)} transcoders do not fit {n_layers} layers")
        width = self.layers[0].encoder.shape[1]
        if width != d_model:
            raise ConfigError(f"transcoders of width {width} do not fit a model of width {d_model}")
        if self.before_norm and hasattr(model.blocks[0], "ln2_post"):
            raise ConfigError(
                "these transcoders write before the norm behind the MLP (mlp.hook_out); this model needs ones that "
                "write behind it (hook_mlp_out)"
            )

    @property
    def cross(self) -> bool:
        """Whether features write to layers above their own."""
        return any(one.decoder.shape[1] > 1 for one in self.layers)

    def reconstruct(
        self, inputs: Sequence[Float[Tensor, "... d_model"]]
    ) -> tuple[list[Float[Tensor, "... feature"]], list[Float[Tensor, "... d_model"]]]:
        """Activations of every layer, and what they say that each MLP writes, from every layer's input."""
        found = [one.encode(x) for one, x in zip(self.layers, inputs, strict=True)]
        return found, [self.written(number, found, x) for number, x in enumerate(inputs)]

    def written(
        self, layer: int, found: Sequence[Float[Tensor, "... feature"]], x: Float[Tensor, "... d_model"]
    ) -> Float[Tensor, "... d_model"]:
        """What they say that a layer's MLP writes, from its input and the activations up to it."""
        one = self.layers[layer]
        out = one.decoder_bias.expand_as(x)
        if one.skip is not None:
            out = out + F.linear(x, one.skip)
        for below in range(layer + 1):
            decoder = self.layers[below].decoder
            if layer - below < decoder.shape[1]:
                out = out + found[below] @ decoder[:, layer - below]
        return out

    def to(self, dtype: torch.dtype) -> Transcoders:
        """All weights in another precision."""

        def cast(one: Transcoder) -> Transcoder:
            parts = {f.name: getattr(one, f.name) for f in fields(one)}
            tensors: dict[str, Any] = {k: v.to(dtype) for k, v in parts.items() if isinstance(v, Tensor)}
            return replace(one, **tensors)

        return replace(self, layers=tuple(map(cast, self.layers)))
