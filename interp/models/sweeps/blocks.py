"""The network as functions of TransformerLens' weights: what each part of a block adds, for any rows and columns.

The bridge runs whole prompts through whole blocks. Here a token can be carried up alone, its keys beside those of
another run, so that a sweep computes only what an edit changes. The weights are the model's own tensors, never copies;
the parts are those of the GPT-2, Llama (Mistral, Qwen2) and Gemma-2 forms. Whether they make the model's own logits is
for the caller to test: `network` says only whether the form is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import pi, sqrt
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
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
_SLOPE = 2 * sqrt(2 / pi)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU with the tanh approximation (Hendrycks & Gimpel, arXiv 1606.08415).

    In float32 on a CPU as x times a sigmoid, the same function in half of the time that torch's own takes there.
    """
    if not torch.is_inference_mode_enabled() or x.dtype != torch.float32 or x.device.type != "cpu":
        return F.gelu(x, approximate="tanh")
    inner = torch.addcmul(x.new_full((), _SLOPE), x, x, value=0.044715 * _SLOPE)
    return inner.mul_(x).sigmoid_().mul_(x)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "relu": F.relu,
}
_LONG = 32
"""Keys from which on a pattern is not written down if nobody asks for it."""
_FEW = 32
"""Whole prompts of which even a short pattern is not: its parts are small, and many."""
_TOKENS_AT_ONCE = 1024
"""Tokens whose neurons are held at once."""

_NOTHING: Mapping[str, Tensor] = MappingProxyType({})

Linear = tuple[Tensor, Tensor | None]
"""Weight [out, in] and bias."""
Map = Callable[[Tensor], Tensor]


class UnknownForm(Exception):
    """The architecture is none of those whose blocks are written here."""


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm or RMSNorm: the model's own module, and its slope in closed form."""

    of: Map
    weight: Float[Tensor, " d_model"]
    eps: float
    centred: bool
    """LayerNorm subtracts the mean over the width, RMSNorm does not."""

    def scale(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... one"]:
        """What it divides by."""
        return (self.tidy(x).pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def held(self, x: Float[Tensor, "... d_model"], scale: Float[Tensor, "... one"]) -> Float[Tensor, "... d_model"]:
        """The linear map that it is while its scale is held, without the bias."""
        return self.tidy(x) / scale * self.weight

    def pulled_back(
        self, slope: Float[Tensor, "... d_model"], x: Float[Tensor, "... d_model"]
    ) -> Float[Tensor, "... d_model"]:
        """The gradient by its input, at `x`, of what has this gradient by its output."""
        scale = self.scale(x)
        unit = self.tidy(x) / scale
        inner = slope * self.weight
        return (self.tidy(inner) - unit * (inner * unit).mean(-1, keepdim=True)) / scale

    def tidy(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Centred where the norm centres: its own transpose."""
        return x - x.mean(-1, keepdim=True) if self.centred else x


@dataclass(frozen=True, eq=False)
class Layer:
    """What one layer computes on whole prompts."""

    stream: Float[Tensor, "prompt pos d_model"]
    q: Float[Tensor, "prompt pos head d_head"]
    k: Float[Tensor, "prompt pos kv d_head"]
    """Not yet turned, as q."""
    v: Float[Tensor, "prompt pos kv d_head"]
    turned_k: Float[Tensor, "prompt pos kv d_head"]
    pattern: Float[Tensor, "prompt head query key"] | None
    """Kept where asked for, as the neurons."""
    z: Float[Tensor, "prompt pos head d_head"]
    attn_out: Float[Tensor, "prompt pos d_model"]
    mid: Float[Tensor, "prompt pos d_model"]
    mlp_in: Float[Tensor, "prompt pos d_model"]
    """The same as `mid`, as the MLP alone reads it."""
    neurons: Float[Tensor, "prompt pos neuron"] | None
    mlp_out: Float[Tensor, "prompt pos d_model"]
    after: Float[Tensor, "prompt pos d_model"]


FIELDS = {"resid_pre": "stream", "resid_mid": "mid", "resid_post": "after", "mlp_post": "neurons"}
"""What `Layer` calls a site, where it does not bear the site's own name."""


@dataclass(frozen=True, eq=False)
class Block:
    """One layer's weights and what it does with them."""

    ln1: Norm
    ln2: Norm
    ln1_post: Norm | None
    """Norm of what attention writes (Gemma-2)."""
    ln2_post: Norm | None
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
        return out if self.ln1_post is None else self.ln1_post.of(out)

    def head_outs(self, z: Float[Tensor, "... head d_head"]) -> Float[Tensor, "... head d_model"]:
        """What each head writes by itself, without the bias; attention's own norm divides by the scale of the sum."""
        weight = self.o[0].unflatten(1, z.shape[-2:])
        outs = torch.einsum("...he,dhe->...hd", z, weight)
        if self.ln1_post is None:
            return outs
        return self.ln1_post.held(outs, self.ln1_post.scale(F.linear(z.flatten(-2), *self.o))[..., None, :])

    def neurons(self, mid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... neuron"]:
        """The MLP's neurons after their activation (and gate)."""
        x = self.ln2.of(mid)
        if self.gate is None:
            return self.act(F.linear(x, *self.up))
        return self.act(F.linear(x, *self.gate)) * F.linear(x, *self.up)

    def from_neurons(self, neurons: Float[Tensor, "... neuron"]) -> Float[Tensor, "... d_model"]:
        """What the neurons write."""
        out = F.linear(neurons, *self.down)
        return out if self.ln2_post is None else self.ln2_post.of(out)

    def mlp_out(self, mid: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """What the MLP writes, some tokens at a time."""
        if len(mid) <= _TOKENS_AT_ONCE:
            return self.from_neurons(self.neurons(mid))
        return torch.cat([self.from_neurons(self.neurons(part)) for part in mid.split(_TOKENS_AT_ONCE)])


@dataclass(frozen=True, eq=False)
class Network:
    """A model's embedding, its blocks and its readout."""

    embed: Map
    """Tokens [row, pos] to the stream that enters the first block."""
    blocks: tuple[Block, ...]
    n_heads: int
    n_kv: int
    d_head: int
    rotary: Callable[[int], tuple[Tensor, Tensor]] | None
    """Cosines and sines of that many columns; None where positions are embedded."""
    ln_final: Norm
    unembedding: Float[Tensor, "vocab d_model"]
    unembedding_bias: Float[Tensor, " vocab"] | None
    cap: float | None
    """Soft cap of the logits."""

    def heads(self, flat: Float[Tensor, "... d"]) -> Float[Tensor, "... head d_head"]:
        """Heads side by side as an axis of their own."""
        return flat.unflatten(-1, (-1, self.d_head))

    def by_head(self, weight: Float[Tensor, "d d_model"]) -> Float[Tensor, "head d_head d_model"]:
        """A weight that makes queries, keys or values, head by head."""
        return weight.unflatten(0, (-1, self.d_head))

    def qkv(
        self, block: Block, stream: Float[Tensor, "... d_model"]
    ) -> tuple[Float[Tensor, "... head d_head"], Float[Tensor, "... kv d_head"], Float[Tensor, "... kv d_head"]]:
        """Queries, keys (neither turned yet) and values."""
        x = block.ln1.of(stream)
        q, k, v = (self.heads(F.linear(x, *weights)) for weights in (block.q, block.k, block.v))
        return q, k, v

    def attends(
        self, block: Block, q: Float[Tensor, "row pos head d_head"], k: Float[Tensor, "row pos kv d_head"]
    ) -> tuple[Float[Tensor, "row pos kv d_head"], Float[Tensor, "row head pos pos"]]:
        """Turned keys and the pattern of whole prompts, from queries and keys that are not turned yet."""
        angles = self.angles(q.shape[1])
        turned_k = turned(k, angles)
        here = torch.arange(q.shape[1], device=q.device).expand(len(q), -1)
        return turned_k, self.pattern(block, turned(q, angles), turned_k, here)

    def attended(
        self,
        block: Block,
        q: Float[Tensor, "row pos head d_head"],
        k: Float[Tensor, "row pos kv d_head"],
        v: Float[Tensor, "row pos kv d_head"],
    ) -> tuple[Float[Tensor, "row pos kv d_head"], Float[Tensor, "row pos head d_head"]]:
        """Turned keys and z of whole prompts, from queries and keys that are not turned yet."""
        angles, here = self.angles(q.shape[1]), torch.arange(q.shape[1], device=q.device)
        turned_k = turned(k, angles)
        return turned_k, self.mixed(block, turned(q, angles), turned_k, v, here.expand(len(q), -1))

    def layer(
        self,
        block: Block,
        stream: Float[Tensor, "prompt pos d_model"],
        *,
        keep_pattern: bool = False,
        keep_neurons: bool = False,
        put: Mapping[str, Tensor] = _NOTHING,
    ) -> Layer:
        """One layer on whole prompts; what stands in `put` under a field's name is used in its place."""
        q, k, v = self.qkv(block, stream)
        q, k, v = put.get("q", q), put.get("k", k), put.get("v", v)
        if keep_pattern or "pattern" in put or torch.is_grad_enabled():
            turned_k, pattern = self.attends(block, q, k)
            pattern = put.get("pattern", pattern)
            z = put.get("z", self.read(pattern, v))
        else:
            turned_k, z = self.attended(block, q, k, v)
            pattern, z = None, put.get("z", z)
        attn_out = put.get("attn_out", block.attn_out(z))
        mid = put.get("mid", stream + attn_out)
        mlp_in = mid.view_as(mid)
        neurons = block.neurons(mlp_in) if keep_neurons or "neurons" in put else None
        if neurons is None:
            mlp_out = block.mlp_out(mlp_in.flatten(0, 1)).reshape(mid.shape)
        else:
            neurons = put.get("neurons", neurons)
            mlp_out = block.from_neurons(neurons)
        mlp_out = put.get("mlp_out", mlp_out)
        after = put.get("after", mid + mlp_out)
        kept = pattern if keep_pattern or "pattern" in put else None
        return Layer(stream, q, k, v, turned_k, kept, z, attn_out, mid, mlp_in, neurons, mlp_out, after)

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
        hidden = ~_visible(block, columns, k.shape[1])
        bias = torch.zeros(hidden.shape, dtype=scores.dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)
        return scores.add_(bias).softmax(-1, dtype=torch.float32).to(q.dtype)

    def mixed(
        self,
        block: Block,
        q: Float[Tensor, "row query head d_head"],
        k: Float[Tensor, "row key kv d_head"],
        v: Float[Tensor, "row key kv d_head"],
        columns: Int[Tensor, "row query"],
    ) -> Float[Tensor, "row query head d_head"]:
        """z; on long prompts without its pattern, which would take longer to write down than to use."""
        whole = len(q) <= _FEW and columns.shape[1] == k.shape[1] and columns.stride(0) == 0
        if (k.shape[1] < _LONG and not whole) or block.cap is not None or q.dtype != torch.float32:
            return self.read(self.pattern(block, q, k, columns), v)
        seen = _visible(block, columns, k.shape[1])
        parts = (part.transpose(1, 2) for part in (q, k, v))
        found = F.scaled_dot_product_attention(
            *parts, attn_mask=seen, scale=block.scale, enable_gqa=self.n_heads != self.n_kv
        )
        return found.transpose(1, 2)

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
        found = F.linear(self.ln_final.of(stream), self.unembedding, self.unembedding_bias)
        return self._capped(found)

    def logits_of(
        self, stream: Float[Tensor, "row read d_model"], tokens: Int[Tensor, "row read token"]
    ) -> Float[Tensor, "row read token"]:
        """The logits of some tokens of each row alone."""
        found = (F.embedding(tokens, self.unembedding) @ self.ln_final.of(stream)[..., None]).squeeze(-1)
        if self.unembedding_bias is not None:
            found = found + self.unembedding_bias[tokens]
        return self._capped(found)

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def _visible(block: Block, columns: Int[Tensor, "row query"], keys: int) -> Bool[Tensor, "#row one query key"]:
    """Which keys each query sees; one row for all where all have the same columns."""
    columns = columns[:1] if columns.stride(0) == 0 else columns
    distance = columns.clamp(min=0)[:, None, :, None] - torch.arange(keys, device=columns.device)
    return (distance >= 0) if block.window is None else (distance >= 0) & (distance < block.window)


def turned(
    heads: Float[Tensor, "... head d_head"], angles: tuple[Tensor, Tensor] | None
) -> Float[Tensor, "... head d_head"]:
    """Queries or keys turned by the angles of their columns (Su et al., arXiv 2104.09864), which broadcast to them."""
    if angles is None:
        return heads
    cos, sin = angles
    one, other = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-other, one], -1) * sin


def at_columns(angles: tuple[Tensor, Tensor] | None, columns: Int[Tensor, " token"]) -> tuple[Tensor, Tensor] | None:
    """The angles of tokens that stand at these columns."""
    return None if angles is None else (angles[0][columns], angles[1][columns])


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
        embed=_embedding(whole),
        blocks=blocks,
        n_heads=n_heads,
        n_kv=int(getattr(whole.cfg, "n_key_value_heads", None) or n_heads),
        d_head=int(whole.cfg.d_head),
        rotary=None if kind == "GPT2LMHeadModel" else _angles(whole),
        ln_final=_norm(whole.ln_final),
        unembedding=unembed.weight.detach(),
        unembedding_bias=None if getattr(unembed, "bias", None) is None else unembed.bias.detach(),
        cap=cap,
    )


def _embedding(model: Any) -> Map:
    words = _core(model.embed)
    places = getattr(model, "pos_embed", None)
    if places is None:
        return words
    table = _core(places).weight.detach()

    def made(tokens: Tensor) -> Tensor:
        here = torch.arange(tokens.shape[1], device=table.device).clamp(max=len(table) - 1)  # of padding, perhaps
        return words(tokens) + table[here]

    return made


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
        ln1=_norm(block.ln1),
        ln2=_norm(block.ln2),
        ln1_post=_norm(block.ln1_post) if hasattr(block, "ln1_post") else None,
        ln2_post=_norm(block.ln2_post) if hasattr(block, "ln2_post") else None,
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


def _norm(part: Any) -> Norm:
    module = _core(part)
    if isinstance(module, nn.LayerNorm):
        return Norm(module, module.weight.detach(), module.eps, centred=True)
    kind = type(module).__name__
    if not kind.endswith("RMSNorm"):
        raise UnknownForm(f"the norm {kind} is not written as a function")
    weight = module.weight.detach()
    if kind == "Gemma2RMSNorm":
        return Norm(module, weight + 1, module.eps, centred=False)
    return Norm(module, weight, module.variance_epsilon, centred=False)


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
