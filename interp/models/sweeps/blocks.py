"""The network as functions of TransformerLens' weights: what each part of a block adds, for any rows and columns.

The bridge runs whole prompts through whole blocks. Here a token can be carried up alone, its keys beside those of
another run, so that a sweep computes only what an edit changes. The weights are the model's own tensors, never copies;
the parts are those of the GPT-2, Llama (Mistral, Qwen2) and Gemma-2 forms. Whether they make the model's own logits is
for the caller to test: `network` says only whether the form is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from interp.models.load import HookedTransformer

_FORMS = {
    "GPT2LMHeadModel",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Gemma2ForCausalLM",
}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "silu": F.silu,
    "relu": F.relu,
}
_TOKENS_AT_ONCE = 1024
"""Tokens whose neurons are held at once."""

Linear = tuple[Tensor, Tensor | None]
"""Weight [out, in] and bias."""
Map = Callable[[Tensor], Tensor]


class UnknownForm(Exception):
    """The architecture is none of those whose blocks are written here."""


@dataclass(frozen=True, eq=False)
class Block:
    """One layer's weights and what it does with them."""

    ln1: Map
    ln2: Map
    ln1_post: Map | None
    """Norm of what attention writes (Gemma-2)."""
    ln2_post: Map | None
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    gate: Linear | None
    up: Linear
    down: Linear
    act: Map
    scale: float
    cap: float | None
    """Soft cap of attention scores."""
    window: int | None
    """Keys that a query sees, itself among them; None for all before it."""

    def attn_out(self, z: Float[Tensor, "... head d_head"]) -> Float[Tensor, "... d_model"]:
        """What the heads write together."""
        out = F.linear(z.flatten(-2), *self.o)
        return out if self.ln1_post is None else self.ln1_post(out)

    def neurons(self, mid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... neuron"]:
        """The MLP's neurons after their activation (and gate)."""
        x = self.ln2(mid)
        if self.gate is None:
            return self.act(F.linear(x, *self.up))
        return self.act(F.linear(x, *self.gate)) * F.linear(x, *self.up)

    def from_neurons(self, neurons: Float[Tensor, "... neuron"]) -> Float[Tensor, "... d_model"]:
        """What the neurons write."""
        out = F.linear(neurons, *self.down)
        return out if self.ln2_post is None else self.ln2_post(out)

    def mlp_out(self, mid: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """What the MLP writes, some tokens at a time."""
        if len(mid) <= _TOKENS_AT_ONCE:
            return self.from_neurons(self.neurons(mid))
        return torch.cat([self.from_neurons(self.neurons(part)) for part in mid.split(_TOKENS_AT_ONCE)])


@dataclass(frozen=True, eq=False)
class Network:
    """A model's blocks and its readout."""

    blocks: tuple[Block, ...]
    n_heads: int
    n_kv: int
    d_head: int
    rotary: Callable[[int], tuple[Tensor, Tensor]] | None
    """Cosines and sines of that many columns; None where positions are embedded."""
    ln_final: Map
    unembedding: Float[Tensor, "vocab d_model"]
    unembedding_bias: Float[Tensor, " vocab"] | None
    cap: float | None
    """Soft cap of the logits."""

    def heads(self, flat: Float[Tensor, "... d"]) -> Float[Tensor, "... head d_head"]:
        """Heads side by side as an axis of their own."""
        return flat.unflatten(-1, (-1, self.d_head))

    def qkv(
        self, block: Block, stream: Float[Tensor, "... d_model"]
    ) -> tuple[Float[Tensor, "... head d_head"], Float[Tensor, "... kv d_head"], Float[Tensor, "... kv d_head"]]:
        """Queries, keys (neither turned yet) and values."""
        x = block.ln1(stream)
        q, k, v = (self.heads(F.linear(x, *weights)) for weights in (block.q, block.k, block.v))
        return q, k, v

    def angles(self, columns: int) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of the first columns [column, 1, d_head]."""
        if self.rotary is None:
            return None
        cos, sin = self.rotary(columns)
        return cos[:, None], sin[:, None]

    def pattern(
        self,
        block: Block,
        q: Float[Tensor, "row query head d_head"],
        k: Float[Tensor, "row key kv d_head"],
        columns: Int[Tensor, "row query"],
    ) -> Float[Tensor, "row head query key"]:
        """Attention of queries that stand at `columns` to the keys of columns 0, 1, ... (both turned already).

        A query at column -1 sees the first key alone; what it reads is to be thrown away.
        """
        group = self.n_heads // self.n_kv
        keys = k.permute(0, 2, 3, 1)
        queries = q.unflatten(2, (self.n_kv, group)).permute(0, 2, 3, 1, 4).flatten(2, 3)
        scores = (queries @ keys).unflatten(2, (group, q.shape[1])).flatten(1, 2).mul_(block.scale)
        if block.cap is not None:
            scores = block.cap * torch.tanh(scores / block.cap)
        distance = columns.clamp(min=0)[:, None, :, None] - torch.arange(k.shape[1], device=q.device)
        hidden = distance < 0
        if block.window is not None:
            hidden |= distance >= block.window
        return scores.masked_fill_(hidden, -torch.inf).softmax(-1, dtype=torch.float32).to(q.dtype)

    def read(
        self, pattern: Float[Tensor, "row head query key"], v: Float[Tensor, "row key kv d_head"]
    ) -> Float[Tensor, "row query head d_head"]:
        """z: what each head takes from the values."""
        group = self.n_heads // self.n_kv
        queries = pattern.shape[2]
        joined = pattern.unflatten(1, (self.n_kv, group)).flatten(2, 3) @ v.transpose(1, 2)
        return joined.unflatten(2, (group, queries)).flatten(1, 2).transpose(1, 2)

    def logits(self, stream: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """Through the final norm and the whole vocabulary."""
        found = F.linear(self.ln_final(stream), self.unembedding, self.unembedding_bias)
        return self._capped(found)

    def logits_of(
        self, stream: Float[Tensor, "row read d_model"], tokens: Int[Tensor, "row read token"]
    ) -> Float[Tensor, "row read token"]:
        """The logits of some tokens of each row alone."""
        found = torch.einsum("rcd,rctd->rct", self.ln_final(stream), self.unembedding[tokens])
        if self.unembedding_bias is not None:
            found = found + self.unembedding_bias[tokens]
        return self._capped(found)

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def turned(
    heads: Float[Tensor, "... head d_head"], angles: tuple[Tensor, Tensor] | None
) -> Float[Tensor, "... head d_head"]:
    """Queries or keys turned by the angles of their columns (Su et al., arXiv 2104.09864), which broadcast to them."""
    if angles is None:
        return heads
    cos, sin = angles
    one, other = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-other, one], -1) * sin


def network(model: HookedTransformer) -> Network:
    """The model as functions. Raises UnknownForm for an architecture that none of them fits."""
    whole: Any = model
    kind = type(whole.original_model).__name__
    if kind not in _FORMS:
        raise UnknownForm(f"the blocks of {kind} are not written as functions")
    config = whole.original_model.config
    activation = getattr(config, "hidden_activation", None) or getattr(
        config, "activation_function" if kind == "GPT2LMHeadModel" else "hidden_act"
    )
    if activation not in _ACTIVATIONS:
        raise UnknownForm(f"the activation {activation} is not written as a function")
    scaling = getattr(config, "rope_parameters", None) or {}
    if "dynamic" in str(scaling.get("rope_type")) or "longrope" in str(scaling.get("rope_type")):
        raise UnknownForm("its rotary angles change with the length of a prompt")
    blocks = tuple(_block(block, _ACTIVATIONS[activation]) for block in whole.blocks)
    cap = getattr(config, "final_logit_softcapping", None)
    unembed = _core(whole.unembed)
    n_heads = int(whole.cfg.n_heads)
    return Network(
        blocks=blocks,
        n_heads=n_heads,
        n_kv=int(getattr(whole.cfg, "n_key_value_heads", None) or n_heads),
        d_head=int(whole.cfg.d_head),
        rotary=None if kind == "GPT2LMHeadModel" else _angles(whole),
        ln_final=_core(whole.ln_final),
        unembedding=unembed.weight.detach(),
        unembedding_bias=None if getattr(unembed, "bias", None) is None else unembed.bias.detach(),
        cap=cap,
    )


def _block(block: Any, act: Map) -> Block:
    attention = _core(block.attn)
    if getattr(attention, "scale_attn_by_inverse_layer_idx", False) or getattr(
        attention, "reorder_and_upcast_attn", False
    ):
        raise UnknownForm("its attention scores are scaled by layer or taken in another precision")
    gate = getattr(block.mlp, "gate", None)
    window = getattr(attention, "sliding_window", None)
    if window is None and type(attention).__name__ == "MistralAttention":
        window = attention.config.sliding_window
    return Block(
        ln1=_core(block.ln1),
        ln2=_core(block.ln2),
        ln1_post=_core(block.ln1_post) if hasattr(block, "ln1_post") else None,
        ln2_post=_core(block.ln2_post) if hasattr(block, "ln2_post") else None,
        q=_linear(block.attn.q),
        k=_linear(block.attn.k),
        v=_linear(block.attn.v),
        o=_linear(block.attn.o),
        gate=None if gate is None else _linear(gate),
        up=_linear(getattr(block.mlp, "in")),
        down=_linear(block.mlp.out),
        act=act,
        scale=float(attention.scaling),
        cap=getattr(attention, "attn_logit_softcapping", None),
        window=window,
    )


def _core(part: Any) -> Any:
    """The Hugging Face module inside a component of the bridge."""
    return getattr(part, "original_component", None) or part


def _linear(part: Any) -> Linear:
    module = _core(part)
    weight: Tensor = module.weight.detach()
    bias = None if module.bias is None else module.bias.detach()
    if isinstance(module, Conv1D):
        return weight.T, bias
    if not isinstance(module, nn.Linear):
        raise UnknownForm(f"a {type(module).__name__} is no linear map")
    return weight, bias


def _angles(model: Any) -> Callable[[int], tuple[Tensor, Tensor]]:
    module = _core(model.rotary_emb)

    def made(columns: int) -> tuple[Tensor, Tensor]:
        place = model.original_model.get_input_embeddings().weight
        like = torch.empty(1, columns, 1, dtype=place.dtype, device=place.device)
        cos, sin = module(like, torch.arange(columns, device=place.device)[None])
        return cos[0], sin[0]

    return made
