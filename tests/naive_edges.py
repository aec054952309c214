"""Edges by a plain loop: every part's input is put together from what all parts before it wrote, one after the other.

Written from the Hugging Face modules alone, for GPT-2, Llama and Gemma-2; slow, and obviously right.
"""

import torch
from transformers.models.llama.modeling_llama import rotate_half


def parts_of(plain):
    """Names of sources and targets in order."""
    config = plain.config
    heads, kv = config.num_attention_heads, getattr(config, "num_key_value_heads", config.num_attention_heads)
    sources, targets = ["embed"], []
    for layer in range(config.num_hidden_layers):
        targets += [f"L{layer}H{h}.q" for h in range(heads)]
        targets += [f"L{layer}H{h}.{kind}" for kind in "kv" for h in range(kv)]
        targets.append(f"mlp{layer}")
        sources += [*(f"L{layer}H{h}" for h in range(heads)), f"mlp{layer}"]
    return sources, [*targets, "logits"]


def run(plain, tokens, other=None, weight=None):
    """Logits of one prompt [pos, vocab] and what every part wrote, by name.

    Where `weight[source, target]` is given, that share of what the target reads of the source is `other`'s.
    """
    gpt2 = plain.config.model_type == "gpt2"
    body = plain.transformer if gpt2 else plain.model
    config = plain.config
    heads = config.num_attention_heads
    kv = getattr(config, "num_key_value_heads", heads)
    blocks = body.h if gpt2 else body.layers
    columns = torch.arange(len(tokens))
    wrote = {}
    biases = 0.0

    def read(target):
        stream = biases
        for source, value in wrote.items():
            share = 0.0 if weight is None else weight.get((source, target), 0.0)
            stream = stream + value + (0.0 if other is None else share * (other[source] - value))
        return stream

    if gpt2:
        wrote["embed"] = body.wte(tokens) + body.wpe(columns)
    else:
        wrote["embed"] = body.embed_tokens(tokens)
        cos, sin = (part[0] for part in body.rotary_emb(wrote["embed"][None], columns[None]))
    for layer, block in enumerate(blocks):
        norm = block.ln_1 if gpt2 else block.input_layernorm
        attention = block.attn if gpt2 else block.self_attn
        d_head = getattr(config, "head_dim", None) or config.hidden_size // heads
        if gpt2:
            weights = attention.c_attn.weight.T.split(config.hidden_size)
            offsets = attention.c_attn.bias.split(config.hidden_size)
            out, out_bias = attention.c_proj.weight.T, attention.c_proj.bias
        else:
            linears = (attention.q_proj, attention.k_proj, attention.v_proj)
            weights, offsets = [one.weight for one in linears], [one.bias for one in linears]
            out, out_bias = attention.o_proj.weight, None

        def made(kind, head, weights=weights, offsets=offsets, norm=norm, layer=layer, d_head=d_head):
            number = "qkv".index(kind)
            rows = slice(head * d_head, (head + 1) * d_head)
            found = norm(read(f"L{layer}H{head}.{kind}")) @ weights[number][rows].T
            return found if offsets[number] is None else found + offsets[number][rows]

        def turn(x):
            return x if gpt2 else x * cos + rotate_half(x) * sin

        keys = [turn(made("k", h)) for h in range(kv)]
        values = [made("v", h) for h in range(kv)]
        outs = []
        for head in range(heads):
            group = head * kv // heads
            scores = turn(made("q", head)) @ keys[group].T
            scores = scores * (config.query_pre_attn_scalar**-0.5 if config.model_type == "gemma2" else d_head**-0.5)
            if config.model_type == "gemma2":
                scores = 50.0 * torch.tanh(scores / 50.0)
            distance = columns[:, None] - columns[None]
            window = getattr(attention, "sliding_window", None)
            hidden = (distance < 0) | (distance >= (window or len(tokens)))
            pattern = scores.masked_fill(hidden, -torch.inf).softmax(-1)
            outs.append(pattern @ values[group] @ out[:, head * d_head : (head + 1) * d_head].T)
        if config.model_type == "gemma2":
            post = block.post_attention_layernorm
            scale = (sum(outs).pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()
            outs = [one / scale * (1 + post.weight) for one in outs]
        wrote |= {f"L{layer}H{head}": one for head, one in enumerate(outs)}
        if out_bias is not None:
            biases = biases + out_bias
        middle = read(f"mlp{layer}")
        if gpt2:
            wrote[f"mlp{layer}"] = block.mlp(block.ln_2(middle))
        elif config.model_type == "gemma2":
            inner = block.mlp(block.pre_feedforward_layernorm(middle))
            wrote[f"mlp{layer}"] = block.post_feedforward_layernorm(inner)
        else:
            wrote[f"mlp{layer}"] = block.mlp(block.post_attention_layernorm(middle))
    final = (body.ln_f if gpt2 else body.norm)(read("logits"))
    logits = plain.lm_head(final)
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if not cap else cap * torch.tanh(logits / cap), wrote
