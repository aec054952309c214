"""What do the weights alone say? OV and QK circuits, and which heads are wired to read from which.

Source: Elhage et al., "A Mathematical Framework for Transformer Circuits" (2021). Weights say what a head could pass
on, not what it does on any prompt. Two random matrices compose too: every score stands beside what it would be if the
earlier head wrote into a randomly rotated stream, which keeps every norm and singular value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError
from interp.models.load import HookedTransformer, require_weights

Through = Literal["Q", "K", "V"]


@dataclass(frozen=True, eq=False)
class Composition:
    """How strongly each head reads, through its queries, keys or values, what each earlier head writes."""

    through: Through
    scores: Float[Tensor, "layer head later_layer later_head"]
    """Norm of the product over the product of norms, 0 to 1; nan where the second head is not in a later layer."""
    random: Float[Tensor, "draw layer head later_layer later_head"]
    """The same with the first head's output in randomly rotated directions: the control. About 1 / sqrt(d_model)."""

    @property
    def z(self) -> Float[Tensor, "layer head later_layer later_head"]:
        """Score less the mean of the control, in standard deviations of the control."""
        return (self.scores - self.random.mean(0)) / self.random.std(0)

    def to_frame(self) -> pd.DataFrame:
        """One row for each pair of heads, the earlier first."""
        rows = []
        for layer, head, later, other in (~self.scores.isnan()).nonzero().tolist():
            index = (layer, head, later, other)
            control = self.random[:, layer, head, later, other]
            rows.append(
                {
                    "through": self.through, "head": f"L{layer}H{head}", "later": f"L{later}H{other}",
                    "score": float(self.scores[index]), "random": float(control.mean()),
                    "random_sd": float(control.std()), "z": float(self.z[index]),
                }
            )  # fmt: skip
        return pd.DataFrame(rows)


def ov_circuit(model: HookedTransformer, layer: int, head: int) -> Float[Tensor, "d_model d_model"]:
    """W_V W_O: what a head writes, as a linear map of the (normed) stream it attends to: x @ OV."""
    _, _, value, output = _head(model, layer, head)
    return value @ output


def qk_circuit(model: HookedTransformer, layer: int, head: int) -> Float[Tensor, "d_model d_model"]:
    """W_Q W_K^T: the score that a query gives a key, as a bilinear form: q @ QK @ k (before rotary positions)."""
    query, key, _, _ = _head(model, layer, head)
    return query @ key.T


def composition(model: HookedTransformer, through: Through, *, draws: int = 20, seed: int = 0) -> Composition:
    """Composition scores of every pair of heads in different layers, against random rotations.

    Needs processed weights: the norms' scales must be folded into the matrices that read.
    """
    if through not in ("Q", "K", "V"):
        raise ConfigError(f"heads compose through Q, K or V, not {through!r}")
    require_weights(model, "processed", "composition of heads")
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    writes: list[tuple[Tensor, Tensor]] = []
    reads: list[tuple[Tensor, Tensor]] = []
    for layer in range(n_layers):
        for head in range(n_heads):
            query, key, value, output = _head(model, layer, head)
            writes.append((value, output))
            reads.append({"Q": (query, key.T), "K": (key, query.T), "V": (value, output)}[through])
    # |V O Q K'| is the norm of R_V (O Q) R_K': small matrices, however wide the stream.
    outputs = torch.stack([torch.linalg.qr(v)[1] @ o for v, o in writes])
    inputs = torch.stack([a @ torch.linalg.qr(b.T)[1].T for a, b in reads])
    norms = outputs.flatten(1).norm(dim=1)[:, None] * inputs.flatten(1).norm(dim=1)[None]
    generator = torch.Generator().manual_seed(seed)
    found = []
    for draw in range(draws + 1):
        turned = outputs if draw == 0 else outputs @ _rotation(outputs.shape[-1], generator).to(outputs)
        product = torch.einsum("adk,bkc->abdc", turned, inputs)
        score = (product.flatten(2).norm(dim=2) / norms).reshape(n_layers, n_heads, n_layers, n_heads)
        found.append(score)
    table = torch.stack(found).float().cpu()
    layers = torch.arange(n_layers)
    earlier = (layers[:, None] < layers[None])[:, None, :, None].expand(table.shape[1:])
    table = table.masked_fill(~earlier, torch.nan)
    return Composition(through, table[0], table[1:])


def _rotation(width: int, generator: torch.Generator) -> Float[Tensor, "d d"]:
    """A random rotation, uniform over all (Mezzadri, arXiv math-ph/0609050)."""
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).float()


def _head(model: HookedTransformer, layer: int, head: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W_Q, W_K, W_V [d_model, d_head] and W_O [d_head, d_model] of a head; grouped heads share keys and values."""
    if not 0 <= layer < int(model.cfg.n_layers) or not 0 <= head < int(model.cfg.n_heads):
        raise ConfigError(f"there is no head L{layer}H{head}: the model has {model.cfg.n_layers} layers with "
                          f"{model.cfg.n_heads} heads each")  # fmt: skip
    attention = model.blocks[layer].attn
    shared = int(model.cfg.n_heads) // attention.W_K.shape[0]
    own = attention.W_Q[head], attention.W_K[head // shared], attention.W_V[head // shared], attention.W_O[head]
    return own[0].float(), own[1].float(), own[2].float(), own[3].float()
