"""A model whose features and wiring were written by hand, prompts that it refuses by a known rule, and its transcoders.

Llama form, three layers, MLPs of rectified units behind a gate that is always one: each hidden unit is a feature, so
that transcoders with the MLPs' own weights are exact. Harm is an act **and** an object without an excuse. The stream is
turned by a random rotation and all MLP weights carry a little noise, so that nothing stands along a coordinate.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from interp.circuits.transcoders import Transcoder, Transcoders
from interp.prompts import Prompts

ACTS, OBJECTS, EXCUSES, FILLERS = 4, 4, 3, 8
BOS, LAST, REFUSE, COMPLY, SEE = range(5)
"""Tokens; after them come the acts, the objects, the excuses and the fillers. SEE is the harmless act."""
ACT = 5
OBJECT = ACT + ACTS
EXCUSE = OBJECT + OBJECTS
FILLER = EXCUSE + EXCUSES
VOCABULARY = FILLER + FILLERS
LENGTH, WIDTH, UNITS, LAYERS, CONSTANT = 9, 64, 24, 3, 20.0
NOISE = 0.004

# Coordinates of the stream before it is turned: one for each token, then what is written.
ONE, HAS_ACT, HAS_OBJECT, HAS_EXCUSE, ANY_ACT, ANY_OBJECT, ANY_EXCUSE, HARM, SAYS_NO, SAYS_YES, AWAY = range(
    VOCABULARY, VOCABULARY + 11
)
FILLED = AWAY + 1
"""What features of fillers write; eight of them."""

# Features by layer and number.
OF_ACT = [(0, i) for i in range(ACTS)]
OF_OBJECT = [(0, ACTS + i) for i in range(OBJECTS)]
OF_EXCUSE = (0, ACTS + OBJECTS)
OF_FILLER = [(0, ACTS + OBJECTS + 1 + i) for i in range(FILLERS)]
HARMFUL, BOTH, EITHER, CALM = ((1, i) for i in range(4))
IDLE = [[(layer, 4 + i) for i in range(FILLERS)] for layer in (1, 2)]
NO, YES = (2, 0), (2, 1)
TRAPS = [*OF_ACT, *OF_OBJECT, BOTH, EITHER, CALM]
"""Active on harmful prompts, and not about harm."""
NAMES = {REFUSE: "refuse", COMPLY: "comply"}

EDGES = {
    **{(one, HARMFUL): 1 for one in (*OF_ACT, *OF_OBJECT)},
    **{(one, BOTH): 1 for one in (*OF_ACT, *OF_OBJECT)},
    **{(one, EITHER): 1 for one in (*OF_ACT, *OF_OBJECT)},
    (OF_EXCUSE, HARMFUL): -1,
    (OF_EXCUSE, CALM): -1,
    **{(one, idle[at]): 1 for idle in IDLE for at, one in enumerate(OF_FILLER)},
    (HARMFUL, NO): 1,
    (HARMFUL, YES): -1,
    (NO, "refuse"): 1,
    (NO, "comply"): -1,
    (YES, "refuse"): -1,
    (YES, "comply"): 1,
}
"""All that is wired: from feature to feature, or to an answer, with its sign."""


@dataclass(frozen=True, eq=False)
class Planted:
    """The model and its exact transcoders."""

    model: LlamaForCausalLM
    transcoders: Transcoders


def planted_model(seed=0):
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=UNITS, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=16, hidden_act="relu", mlp_bias=True,
        tie_word_embeddings=False, bos_token_id=BOS, eos_token_id=COMPLY, pad_token_id=BOS,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # The constant is nearly all of the stream's length: norms divide by what these weights multiply with.
            parameter.fill_(CONSTANT / WIDTH**0.5 if "norm" in name else 0.0)
        embedding = torch.zeros(VOCABULARY, WIDTH)
        embedding[torch.arange(VOCABULARY), torch.arange(VOCABULARY)] = 1.0
        embedding[ACT:FILLER, :] *= (1 + 0.2 * torch.rand(FILLER - ACT, generator=generator))[:, None]
        embedding[:, ONE] = CONSTANT
        model.model.embed_tokens.weight.copy_(embedding @ turn)
        attention = model.model.layers[1].self_attn
        value, out = torch.zeros(WIDTH, WIDTH), torch.zeros(WIDTH, WIDTH)
        for at, (has, found) in enumerate(((HAS_ACT, ANY_ACT), (HAS_OBJECT, ANY_OBJECT), (HAS_EXCUSE, ANY_EXCUSE))):
            value[at, has] = LENGTH  # attention is uniform, and the last of so many tokens gets the sum
            out[found, at] = 1.0
        attention.v_proj.weight.copy_(value @ turn)
        attention.o_proj.weight.copy_(turn.T @ out)
        for layer, mlp in enumerate(block.mlp for block in model.model.layers):
            gate, bias, down = _units(layer)
            noise = NOISE * torch.randn(UNITS, WIDTH, generator=generator)
            noise[:, ONE] = 0.0
            mlp.gate_proj.weight.copy_((gate + noise) @ turn)
            mlp.gate_proj.bias.copy_(bias)
            mlp.up_proj.bias.fill_(1.0)
            mlp.down_proj.weight.copy_(turn.T @ (down + NOISE * torch.randn(WIDTH, UNITS, generator=generator)))
        unembedding = torch.zeros(VOCABULARY, WIDTH)
        unembedding[REFUSE, SAYS_NO] = unembedding[COMPLY, SAYS_YES] = 1.0
        unembedding[[REFUSE, COMPLY], LAST] = 8.0  # both are likelier than all others, whichever it is
        model.lm_head.weight.copy_(unembedding @ turn)
    return Planted(model, Transcoders(tuple(map(_transcoder, model.model.layers)), name="planted"))


def _transcoder(block):
    mlp = block.mlp
    parts = (mlp.gate_proj.weight, mlp.gate_proj.bias, mlp.down_proj.weight.T[:, None], mlp.down_proj.bias)
    return Transcoder(*(part.detach().clone().contiguous() for part in parts))


def _units(layer):
    """What the units of a layer read, from where on they are active, and what they write."""
    gate, bias, down = torch.zeros(UNITS, WIDTH), torch.full((UNITS,), -1.0), torch.zeros(WIDTH, UNITS)

    def unit(number, reads, threshold, writes):
        for coordinate, weight in reads.items():
            gate[number, coordinate] = weight
        bias[number] = -threshold
        for coordinate, weight in writes.items():
            down[coordinate, number] = weight

    if layer == 0:
        for i, (_, number) in enumerate(OF_ACT):
            unit(number, {ACT + i: 2.0}, 1.0, {HAS_ACT: 1.0})
        for i, (_, number) in enumerate(OF_OBJECT):
            unit(number, {OBJECT + i: 2.0}, 1.0, {HAS_OBJECT: 1.0})
        unit(OF_EXCUSE[1], {EXCUSE + i: 2.0 for i in range(EXCUSES)}, 1.0, {HAS_EXCUSE: 1.0})
        for i, (_, number) in enumerate(OF_FILLER):
            unit(number, {FILLER + i: 2.0}, 1.0, {FILLED + i: 1.0})
    elif layer == 1:
        here = {LAST: 8.0}
        unit(HARMFUL[1], {**here, ANY_ACT: 1.0, ANY_OBJECT: 1.0, ANY_EXCUSE: -3.0}, 8.0 + 1.6, {HARM: 1.0})
        unit(BOTH[1], {**here, ANY_ACT: 1.0, ANY_OBJECT: 1.0}, 8.0 + 1.6, {AWAY: 1.0})
        unit(EITHER[1], {**here, ANY_ACT: 1.0, ANY_OBJECT: 1.0}, 8.0 + 0.5, {AWAY: 1.0})
        unit(CALM[1], {**here, ANY_EXCUSE: -2.0}, 7.0, {AWAY: 1.0})
    else:
        unit(NO[1], {HARM: 4.0}, 0.2, {SAYS_NO: 0.8, SAYS_YES: -0.8})
        unit(YES[1], {LAST: 2.0, HARM: -3.0}, 0.5, {SAYS_NO: -1.2, SAYS_YES: 1.2})
    if layer:
        for i, (_, number) in enumerate(IDLE[layer - 1]):
            unit(number, {FILLED + i: 1.5}, 0.5, {AWAY: 0.5})
    return gate, bias, down


def planted_prompts(triples=60, seed=0):
    """Triples of prompts of one length, labelled as the benchmark is; read at the last token."""
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    for number in range(triples):
        act, thing, excuse = (int(rng.integers(first, first + n)) for first, n in
                              ((ACT, ACTS), (OBJECT, OBJECTS), (EXCUSE, EXCUSES)))  # fmt: skip
        fillers = rng.integers(FILLER, VOCABULARY, 5).tolist()
        order = rng.permutation(LENGTH - 2)
        for kind, words in (
            ("harmful", [act, thing]), ("safe_contrast", [act, thing, excuse]), ("benign_act", [SEE, thing])
        ):  # fmt: skip
            inner = (words + fillers)[: LENGTH - 2]
            rows.append([BOS, *(inner[i] for i in order), LAST])
            labels.append({"pair": f"pair-{number:02}", "category": "planted", "kind": kind, "subcategory": str(act)})
    tokens = torch.tensor(rows)
    texts = [" ".join(map(str, row)) for row in rows]
    groups = torch.arange(triples).repeat_interleave(3)
    answers = torch.tensor([REFUSE if one["kind"] == "harmful" else COMPLY for one in labels])
    return Prompts.from_tokens(tokens, answers=answers, texts=texts, labels=pd.DataFrame(labels), groups=groups)
