"""Edges of an attribution graph by a plain loop: each source's vector is sent up the frozen network by itself.

From the Hugging Face modules' weights alone, in float64, without gradients, for GPT-2, Llama and Gemma-2.
"""

import torch
from transformers.models.llama.modeling_llama import rotate_half


class Naive:
    """A prompt's run in float64, and what a vector written somewhere becomes higher up."""

    def __init__(self, plain, tokens, transcoders):
        self.plain, self.transcoders, self.config = plain.double().eval(), transcoders, plain.config
        self.kind = plain.config.model_type
        self.gpt2, self.gemma = self.kind == "gpt2", self.kind == "gemma2"
        body = plain.transformer if self.gpt2 else plain.model
        self.blocks = body.h if self.gpt2 else body.layers
        self.last_norm = body.ln_f if self.gpt2 else body.norm
        columns = torch.arange(len(tokens))
        if self.gpt2:
            self.embedded = body.wte.weight[tokens]
            self.position = body.wpe.weight[columns]
        else:
            scale = torch.tensor(self.config.hidden_size**0.5).double() if self.gemma else 1.0
            self.embedded = body.embed_tokens.weight[tokens] * scale
            self.position = torch.zeros_like(self.embedded)
            self.angles = [one[0].double() for one in body.rotary_emb(self.embedded[None], columns[None])]
        stream = self.embedded + self.position
        self.seen = []
        for block in self.blocks:
            seen = {"stream": stream, "pattern": self.pattern(block, stream)}
            out = self.attention(block, stream, seen, fresh=True)
            mid = stream + out
            seen |= {"mid": mid, "mlp_out": self.mlp(block, mid)}
            stream = mid + seen["mlp_out"]
            self.seen.append(seen)
        self.final = stream

    def weight(self, norm):
        return 1 + norm.weight if self.gemma else norm.weight

    def tidy(self, x):
        return x - x.mean(-1, keepdim=True) if self.gpt2 else x

    def scale(self, x, norm):
        eps = norm.eps if self.gpt2 or self.gemma else norm.variance_epsilon
        return (self.tidy(x).pow(2).mean(-1, keepdim=True) + eps).sqrt()

    def bias(self, norm):
        return norm.bias if self.gpt2 else torch.zeros_like(norm.weight)

    def norm(self, x, norm):
        return self.tidy(x) / self.scale(x, norm) * self.weight(norm) + self.bias(norm)

    def norms(self, block):
        if self.gpt2:
            return block.ln_1, None, block.ln_2, None
        if self.gemma:
            return (
                block.input_layernorm, block.post_attention_layernorm, block.pre_feedforward_layernorm,
                block.post_feedforward_layernorm,
            )  # fmt: skip
        return block.input_layernorm, None, block.post_attention_layernorm, None

    def maps(self, block):
        """Weights [in, out] and biases of q, k, v and o."""
        if self.gpt2:
            width = self.config.hidden_size
            found = list(
                zip(block.attn.c_attn.weight.split(width, 1), block.attn.c_attn.bias.split(width), strict=True)
            )
            return [*found, (block.attn.c_proj.weight, block.attn.c_proj.bias)]
        part = block.self_attn
        linears = (part.q_proj, part.k_proj, part.v_proj, part.o_proj)
        return [(one.weight.T, 0.0 if one.bias is None else one.bias) for one in linears]

    def pattern(self, block, stream):
        heads = self.config.num_attention_heads
        d_head = getattr(self.config, "head_dim", None) or self.config.hidden_size // heads
        x = self.norm(stream, self.norms(block)[0])
        (wq, bq), (wk, bk) = self.maps(block)[:2]
        q, k = ((x @ w + b).unflatten(-1, (-1, d_head)).transpose(0, 1) for w, b in ((wq, bq), (wk, bk)))
        if not self.gpt2:
            cos, sin = self.angles
            q, k = (one * cos + rotate_half(one) * sin for one in (q, k))
        k = k.repeat_interleave(heads // len(k), 0)
        scores = q @ k.transpose(1, 2) * (self.config.query_pre_attn_scalar**-0.5 if self.gemma else d_head**-0.5)
        if self.gemma:
            scores = 50.0 * torch.tanh(scores / 50.0)
        columns = torch.arange(len(stream))
        distance = columns[:, None] - columns[None]
        window = None if self.gpt2 else getattr(block.self_attn, "sliding_window", None)
        hidden = (distance < 0) | (distance >= (window or len(stream)))
        return scores.masked_fill(hidden, -torch.inf).softmax(-1)

    def attention(self, block, stream, seen, *, fresh=False, biases=True):
        """What attention writes; with the scales held unless `fresh`, and as a linear map without its biases."""
        first, post = self.norms(block)[:2]
        if fresh:
            seen["ln1"] = self.scale(stream, first)
        x = self.tidy(stream) / seen["ln1"] * self.weight(first) + (self.bias(first) if biases else 0.0)
        heads, (wv, bv), (wo, bo) = self.config.num_attention_heads, *self.maps(block)[2:]
        d_head = getattr(self.config, "head_dim", None) or self.config.hidden_size // heads
        v = (x @ wv + (bv if biases else 0.0)).unflatten(-1, (-1, d_head)).transpose(0, 1)
        v = v.repeat_interleave(heads // len(v), 0)
        out = (seen["pattern"] @ v).transpose(0, 1).flatten(1) @ wo + (bo if biases else 0.0)
        if post is None:
            return out
        if fresh:
            seen["post"] = self.scale(out, post)
        return out / seen["post"] * self.weight(post)

    def mlp(self, block, mid):
        _, _, norm, post = self.norms(block)
        x = self.norm(mid, norm)
        out = block.mlp(x)
        return out if post is None else self.norm(out, post)

    def read(self, layer, mid, *, biases=True):
        """What the layer's features read of a stream, the scale of the norm held."""
        reads = self.transcoders.reads
        if reads == "resid_mid":
            return mid
        norm = self.norms(self.blocks[layer])[2]
        unit = self.tidy(mid) / self.scale(self.seen[layer]["mid"], norm)
        return unit if reads == "normalized" else unit * self.weight(norm) + (self.bias(norm) if biases else 0.0)

    def sent(self, stream, layer=0, *, middle=False):
        """What a vector becomes that is written before a layer (or, `middle`, after its attention): what each layer's
        features read of it, and the last stream."""
        found = {}
        for at in range(layer, len(self.blocks)):
            if not (middle and at == layer):
                stream = stream + self.attention(self.blocks[at], stream, self.seen[at], biases=False)
            found[at] = self.read(at, stream, biases=False)
            skip = self.transcoders.layers[at].skip
            if skip is not None:
                stream = stream + found[at] @ skip.double().T
        return found, stream


def edges(plain, tokens, transcoders, features, logits, read):
    """Into features [(layer, column, number), ...] and then logits: from features, errors, tokens and biases."""
    net = Naive(plain, tokens, transcoders)
    total, columns = len(net.blocks), len(tokens)
    width = net.embedded.shape[1]
    layers = transcoders.layers
    activations = [one_active(layers[at], net.read(at, net.seen[at]["mid"])) for at in range(total)]
    unembed = plain.lm_head.weight
    apart = unembed[logits] - unembed.mean(0)

    def reached(sent):
        found, final = sent
        row = []
        for layer, column, number in features:
            has = layer in found
            row.append(
                layers[layer].encoder[number].double() @ found[layer][column] if has else torch.zeros(()).double()
            )
        scale = net.scale(net.final, net.last_norm)
        last = (net.tidy(final) / scale * net.weight(net.last_norm))[read]
        return torch.stack([*row, *(apart @ last)])

    def written(vectors):
        """Of vectors that are written after layers, {layer: [pos, d]}."""
        whole = torch.zeros(len(features) + len(logits)).double()
        for at, vector in vectors.items():
            whole = whole + reached(net.sent(vector, at + 1))
        return whole

    def alone(column, vector):
        stream = torch.zeros(columns, width).double()
        stream[column] = vector
        return stream

    found = []
    for layer, column, number in features:
        size, decoder = activations[layer][column, number], layers[layer].decoder[number].double()
        found.append(written({layer + up: alone(column, size * one) for up, one in enumerate(decoder)}))
    for at in range(total):
        own = layers[at].decoder_bias.double().expand(columns, -1)
        if layers[at].skip is not None:
            own = own + net.read(at, net.seen[at]["mid"]) @ layers[at].skip.double().T
        for below in range(at + 1):
            if at - below < layers[below].decoder.shape[1]:
                own = own + activations[below] @ layers[below].decoder[:, at - below].double()
        error = net.seen[at]["mlp_out"] - own
        found += [written({at: alone(column, error[column])}) for column in range(columns)]
    found += [reached(net.sent(alone(column, net.embedded[column]))) for column in range(columns)]
    nothing = torch.zeros(columns, width).double()
    for at in range(total):
        bias = net.attention(net.blocks[at], nothing, net.seen[at], biases=True)
        found.append(reached(net.sent(bias, at, middle=True)))
    for at in range(total):
        bias = layers[at].decoder_bias.double().expand(columns, -1)
        if layers[at].skip is not None:
            bias = bias + net.read(at, nothing) @ layers[at].skip.double().T
        found.append(written({at: bias}))
    found.append(reached(net.sent(net.position)))
    own = [
        layers[layer].encoder[number].double() @ net.read(layer, nothing)[column] + layers[layer].encoder_bias[number]
        for layer, column, number in features
    ]
    own += list(apart @ net.bias(net.last_norm))
    found.append(torch.stack(own))
    return torch.stack(found, 1)


def one_active(one, x):
    """Activations in float64."""
    before = x @ one.encoder.double().T + one.encoder_bias.double()
    found = before.relu()
    if one.threshold is not None:
        found = found * (before > one.threshold.double())
    if one.k is not None:
        kept = found.topk(one.k, -1)
        found = torch.zeros_like(found).scatter(-1, kept.indices, kept.values)
    return found
