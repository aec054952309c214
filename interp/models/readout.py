"""The output as a linear map: unembedding and final norm, once the norm's scale is held at a value.

With the scale held, a logit is a dot product of the residual stream with one vector (Elhage et al., "A Mathematical
Framework for Transformer Circuits", 2021). What a vector does to the scale itself is left out, and so is a soft cap
of the logits (Gemma-2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.load import HookedTransformer

_CHUNK = 1 << 14


@dataclass(frozen=True, eq=False)
class LinearReadout:
    """How vectors of the stream reach the logits, for a scale of one."""

    unembedding: Float[Tensor, "d_model vocab"]
    bias: Float[Tensor, " vocab"]
    norm_weight: Float[Tensor, " d_model"]
    norm_bias: Float[Tensor, " d_model"]
    centred: bool
    """LayerNorm subtracts the mean over the width, RMSNorm does not."""
    eps: float

    @classmethod
    def of(cls, model: HookedTransformer) -> LinearReadout:
        """The readout of a model as it stands (raw or processed)."""
        norm = {name.split(".")[-1]: p.detach().float() for name, p in model.ln_final.named_parameters()}
        table = model.W_U.detach().float()
        width, vocabulary = table.shape
        weight = norm.get("weight", table.new_ones(width)).to(table)
        if bool(getattr(model.cfg, "rmsnorm_uses_offset", False)):  # Gemma's norms multiply by 1 + weight
            weight = weight + 1
        return cls(
            table,
            model.b_U.detach().float() if model.b_U is not None else table.new_zeros(vocabulary),
            weight,
            norm.get("bias", table.new_zeros(width)).to(table),
            not bool(getattr(model.cfg, "uses_rms_norm", False)),
            float(getattr(model.cfg, "eps", 1e-5)),
        )

    def scale(self, stream: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any"]:
        """What the final norm divides by at these vectors of the stream."""
        held = stream - stream.mean(-1, keepdim=True) if self.centred else stream
        return (held.pow(2).mean(-1) + self.eps).sqrt()

    def directions(self, ids: Int[Tensor, "*any"]) -> Float[Tensor, "*any d_model"]:
        """The vector that each token's logit is read with."""
        return self.tidy(self.unembedding.T[ids] * self.norm_weight)

    def constants(self, ids: Int[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """What each token's logit is where the stream is zero."""
        return self.bias[ids] + self.unembedding.T[ids] @ self.norm_bias

    def mean_direction(self) -> Float[Tensor, " d_model"]:
        """The vector that the mean logit is read with."""
        return self.tidy(self.unembedding.mean(1) * self.norm_weight)

    def mean_constant(self) -> Float[Tensor, ""]:
        """The mean logit where the stream is zero."""
        return self.bias.mean() + self.unembedding.mean(1) @ self.norm_bias

    def logits(self, vectors: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any vocab"]:
        """What vectors add to every logit."""
        return (self.tidy(vectors.to(self.unembedding)) * self.norm_weight) @ self.unembedding

    def covariance(self) -> Float[Tensor, "d_model d_model"]:
        """Covariance over the vocabulary of the vectors that logits are read with: v C v is the variance of v's
        logits."""
        mean = self.unembedding.mean(1, keepdim=True)
        found = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)
        for part in self.unembedding.split(_CHUNK, dim=1):
            apart = (part - mean).double()
            found += apart @ apart.T
        both = found / self.unembedding.shape[1] * torch.outer(self.norm_weight, self.norm_weight)
        return self.tidy(self.tidy(both).T).T.to(mean)

    def tidy(self, vectors: Tensor) -> Tensor:
        """Without the component that the norm takes away."""
        return vectors - vectors.mean(-1, keepdim=True) if self.centred else vectors
