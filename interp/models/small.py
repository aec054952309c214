"""Small models to be trained here: a shape, and the untrained Hugging Face model of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from interp.errors import ConfigError
from interp.models.load import seeded


class Architecture(BaseModel):
    """The shape of the model."""

    model_config = ConfigDict(extra="forbid")
    form: Literal["llama", "gpt2"] = "llama"
    layers: int = Field(default=2, ge=1)
    width: int = Field(default=64, ge=8)
    heads: int = Field(default=4, ge=1)
    mlp: int = Field(default=192, ge=8)


def check_shape(shape: Architecture) -> None:
    """Raise ConfigError for numbers that do not fit together."""
    if shape.width % shape.heads:
        raise ConfigError(f"width {shape.width} is not a multiple of heads {shape.heads}")
    if shape.form == "llama" and shape.width // shape.heads % 2:
        raise ConfigError(f"heads of width {shape.width // shape.heads} cannot be rotated in pairs; make it even")


def build_small(
    shape: Architecture, vocabulary: int, context: int, *, seed: int, special: tuple[int, int, int]
) -> nn.Module:
    """The untrained model, initialised from its seed. `special`: ids of `<bos>`, `<eos>` and `<pad>`."""
    check_shape(shape)
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    common: dict[str, Any] = {"vocab_size": vocabulary, **dict(zip(names, special, strict=True))}
    with seeded(seed):
        if shape.form == "llama":
            return LlamaForCausalLM(
                LlamaConfig(
                    hidden_size=shape.width,
                    intermediate_size=shape.mlp,
                    num_hidden_layers=shape.layers,
                    num_attention_heads=shape.heads,
                    num_key_value_heads=shape.heads,
                    max_position_embeddings=context,
                    tie_word_embeddings=False,
                    **common,
                )
            )
        return GPT2LMHeadModel(
            GPT2Config(
                n_positions=context,
                n_embd=shape.width,
                n_layer=shape.layers,
                n_head=shape.heads,
                n_inner=shape.mlp,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                **common,
            )
        )
