"""Models whose mechanism is known because it was written by hand: the ground truth that methods are scored on."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

SHARPNESS = 400.0
"""Scale of the hand-written attention scores: high enough that attention is on one key to seven digits."""


def induction_model(vocabulary: int = 12, context: int = 16) -> GPT2LMHeadModel:
    """A two-layer attention-only model that repeats: after `A B ... A` it predicts B.

    Head L0H0 attends to the token before and copies it; head L1H0 attends to the place whose copied token equals the
    current one (the token after its earlier occurrence) and writes that place's token to the output: the induction
    circuit of Olsson et al. (arXiv 2209.11895). L0H1 and L1H1 attend uniformly and write nothing; the MLPs are zero.
    The residual stream is four one-hot blocks: token, position, token before, output.
    """
    token, position = 0, vocabulary
    before, output = vocabulary + context, 2 * vocabulary + context
    # Two heads share the width, and each must hold one block.
    width = max(2 * vocabulary, 2 * context, 3 * vocabulary + context)
    width += width % 2
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=context, n_embd=width, n_layer=2, n_head=2, n_inner=4,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model: Any = GPT2LMHeadModel(config).eval()
    tokens, positions = torch.arange(vocabulary), torch.arange(context)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        model.transformer.wte.weight[tokens, token + tokens] = 1.0
        model.transformer.wpe.weight[positions, position + positions] = 1.0
        model.lm_head.weight[tokens, output + tokens] = 1.0
        first, second = (block.attn for block in model.transformer.h)
        query, key, value = 0, width, 2 * width
        first.c_attn.weight[position + positions, query + positions] = SHARPNESS
        first.c_attn.weight[position + positions[:-1], key + positions[1:]] = 1.0
        first.c_attn.weight[token + tokens, value + tokens] = 1.0
        first.c_proj.weight[tokens, before + tokens] = 1.0
        second.c_attn.weight[token + tokens, query + tokens] = SHARPNESS
        second.c_attn.weight[before + tokens, key + tokens] = 1.0
        second.c_attn.weight[token + tokens, value + tokens] = 1.0
        second.c_proj.weight[tokens, output + tokens] = 1.0
    return model
