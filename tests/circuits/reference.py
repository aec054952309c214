"""The reference adjacency of a tiny Llama and a tiny Gemma-2 with random transcoders, and the script that makes it.

    python -m tests.circuits.reference        # writes tests/circuits/fixtures/{llama,gemma2}.safetensors

From weights alone, in float64 with numpy: the whole frozen network is written out as matrices over (position, width),
and an edge is (what a target reads) @ (the matrices between) @ (what a source writes). Neither torch nor gradients, no
module of transformers and none of interp. A file holds the weights, too, so that no draw can move under the edges.
"""

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

FOLDER = Path(__file__).parent / "fixtures"
WIDTH, LAYERS, NEURONS, VOCABULARY, SIZE, COLUMNS = 16, 3, 24, 30, 10, 6
SHARED = {
    "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "intermediate_size": NEURONS, "vocab_size": VOCABULARY,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip
CONFIGS = {
    "llama": {**SHARED, "head_dim": 4, "attention_bias": True, "tie_word_embeddings": False},
    # A small cap and a short window, so that both count; heads wider than the stream, and a scale of their own.
    "gemma2": {
        **SHARED, "head_dim": 6, "query_pre_attn_scalar": 9, "attn_logit_softcapping": 2.0, "sliding_window": 3,
        "final_logit_softcapping": 5.0, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}  # fmt: skip
READS = {"llama": "mlp_in", "gemma2": "normalized"}
"""What features read: with the weight of the MLP's norm, and before it, as GemmaScope's do."""


def drawn(form):
    """Weights by their Hugging Face names, transcoders, and a prompt; all that is drawn is float32."""
    config, gemma = CONFIGS[form], form == "gemma2"
    rng = np.random.default_rng(11)

    def normal(*shape, by=1.0, to=0.0):
        return (to + by * rng.normal(size=shape)).astype(np.float32)

    def norm():
        return normal(WIDTH, by=0.2, to=0.0 if gemma else 1.0)  # Gemma's weights are beside 1

    heads, kv = (config[f"num_{kind}_heads"] * config["head_dim"] for kind in ("attention", "key_value"))
    weights = {"model.embed_tokens.weight": normal(VOCABULARY, WIDTH, by=0.25 if gemma else 1.0)}
    norms = ["input_layernorm", "post_attention_layernorm"]
    norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] if gemma else []
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for name, out in (("q", heads), ("k", kv), ("v", kv)):
            weights[f"{at}.self_attn.{name}_proj.weight"] = normal(out, WIDTH, by=0.3)
        weights[f"{at}.self_attn.o_proj.weight"] = normal(WIDTH, heads, by=0.3)
        if config.get("attention_bias"):
            for name, out in (("q", heads), ("k", kv), ("v", kv), ("o", WIDTH)):
                weights[f"{at}.self_attn.{name}_proj.bias"] = normal(out, by=0.2)
        for name in ("gate", "up"):
            weights[f"{at}.mlp.{name}_proj.weight"] = normal(NEURONS, WIDTH, by=0.3)
        weights[f"{at}.mlp.down_proj.weight"] = normal(WIDTH, NEURONS, by=0.3)
        weights |= {f"{at}.{name}.weight": norm() for name in norms}
    weights["model.norm.weight"] = norm()
    if not gemma:
        weights["lm_head.weight"] = normal(VOCABULARY, WIDTH, by=0.3)
    transcoders = {}
    for layer in range(LAYERS):
        transcoders |= {
            f"{layer}.encoder": normal(SIZE, WIDTH, by=0.3), f"{layer}.encoder_bias": normal(SIZE, by=0.3, to=-0.4),
            f"{layer}.decoder": normal(SIZE, WIDTH, by=0.3), f"{layer}.decoder_bias": normal(WIDTH, by=0.1),
            f"{layer}.threshold": (0.3 * rng.random(SIZE)).astype(np.float32),
        }  # fmt: skip
        if not gemma:
            transcoders[f"{layer}.skip"] = normal(WIDTH, WIDTH, by=0.1)
    return weights, transcoders, rng.integers(VOCABULARY, size=COLUMNS)


def run(form, weights, transcoders, tokens):
    """The prompt's run: what is embedded, for every layer its maps and vectors, the last stream and all logits."""
    config, gemma = CONFIGS[form], form == "gemma2"
    columns = len(tokens)

    def scale(x):
        return np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"])

    def gain(name):
        return weights[f"{name}.weight"] + (1 if gemma else 0)

    stream = weights["model.embed_tokens.weight"][tokens] * (WIDTH**0.5 if gemma else 1.0)
    embedded, layers = stream, []
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        part = {name.split(".")[1]: array for name, array in transcoders.items() if name.startswith(f"{layer}.")}
        # Attention, from the normalised stream; then from the stream itself, through the norm behind it.
        first = gain(f"{at}.input_layernorm") / scale(stream)
        through, constant = _attention(config, stream * first, weights, f"{at}.self_attn", layer)
        out = np.einsum("qoki,ki->qo", through, stream * first) + constant
        after = gain(f"{at}.post_attention_layernorm") / scale(out) if gemma else np.ones_like(out)
        through = through * first * after[:, :, None, None]
        mid = stream + out * after
        # The MLP, and the transcoder in its place.
        norm = f"{at}.pre_feedforward_layernorm" if gemma else f"{at}.post_attention_layernorm"
        written = _mlp(mid * gain(norm) / scale(mid), weights, f"{at}.mlp", gemma)
        written = written * gain(f"{at}.post_feedforward_layernorm") / scale(written) if gemma else written
        factor = (gain(norm) if READS[form] == "mlp_in" else np.ones(WIDTH)) / scale(mid)
        inputs, skip = mid * factor, part.get("skip", np.zeros((WIDTH, WIDTH)))
        pre = inputs @ part["encoder"].T + part["encoder_bias"]
        active = np.where((pre > part["threshold"]) & (pre > 0), pre, 0.0)
        straight = np.zeros_like(through)
        for column in range(columns):
            straight[column, :, column] = skip * factor[column]
        square = (columns * WIDTH, columns * WIDTH)
        layers.append(
            {
                **part, "factor": factor, "pre": pre, "active": active, "attention_bias": constant * after,
                "attention_map": np.eye(square[0]) + through.reshape(square),
                "skip_map": np.eye(square[0]) + straight.reshape(square),
                "error": written - active @ part["decoder"] - part["decoder_bias"] - inputs @ skip.T,
            }
        )  # fmt: skip
        stream = mid + written
    last = gain("model.norm") / scale(stream[-1])
    return embedded, layers, stream[-1], last


def _attention(config, x, weights, name, layer):
    """What attention writes of what it reads, patterns held: a map [to, out, from, in] and a constant [to, out]."""
    by_value, by_out = weights[f"{name}.v_proj.weight"], weights[f"{name}.o_proj.weight"]
    value = weights.get(f"{name}.v_proj.bias", np.zeros(len(by_value)))
    size, columns = config["head_dim"], len(x)
    through = np.zeros((columns, WIDTH, columns, WIDTH))
    constant = np.zeros((columns, WIDTH)) + weights.get(f"{name}.o_proj.bias", 0.0)
    pattern = _pattern(config, x, weights, name, layer)
    for head, seen in enumerate(pattern):
        group = head * config["num_key_value_heads"] // len(pattern)
        out, rows = by_out[:, head * size : (head + 1) * size], slice(group * size, (group + 1) * size)
        through += np.einsum("qk,oi->qoki", seen, out @ by_value[rows])
        constant += out @ value[rows]
    return through, constant


def _pattern(config, x, weights, name, layer):
    """Attention patterns [head, query, key]."""
    size, columns = config["head_dim"], len(x)
    frequency = config["rope_parameters"]["rope_theta"] ** (-np.arange(0, size, 2) / size)
    angle = np.arange(columns)[:, None] * np.concatenate([frequency, frequency])
    distance = np.arange(columns)[:, None] - np.arange(columns)
    hidden = distance < 0
    if config.get("layer_types", ())[layer : layer + 1] == ["sliding_attention"]:
        hidden |= distance >= config["sliding_window"]

    def heads(kind):
        found = x @ weights[f"{name}.{kind}_proj.weight"].T + weights.get(f"{name}.{kind}_proj.bias", 0.0)
        found = found.reshape(columns, -1, size).transpose(1, 0, 2)
        half = np.concatenate([-found[..., size // 2 :], found[..., : size // 2]], -1)
        return found * np.cos(angle) + half * np.sin(angle)

    q, k = heads("q"), heads("k")
    scores = q @ np.repeat(k, len(q) // len(k), 0).transpose(0, 2, 1)
    scores = scores * config.get("query_pre_attn_scalar", size) ** -0.5
    cap = config.get("attn_logit_softcapping")
    scores = scores if cap is None else cap * np.tanh(scores / cap)
    scores = np.exp(np.where(hidden, -np.inf, scores))
    return scores / scores.sum(-1, keepdims=True)


def _mlp(x, weights, name, gemma):
    gate, up = (x @ weights[f"{name}.{kind}_proj.weight"].T for kind in ("gate", "up"))
    if gemma:
        act = 0.5 * gate * (1 + np.tanh((2 / np.pi) ** 0.5 * (gate + 0.044715 * gate**3)))
    else:
        act = gate / (1 + np.exp(-gate))
    return (act * up) @ weights[f"{name}.down_proj.weight"].T


def adjacency(form, weights, transcoders, tokens):
    """Features, activations, logits, pre-activations and edges, in the order of `interp.circuits.graph.Graph`."""
    weights, transcoders = (
        {name: array.astype(np.float64) for name, array in part.items()} for part in (weights, transcoders)
    )
    embedded, layers, final, last = run(form, weights, transcoders, tokens)
    unembed, cap = weights.get("lm_head.weight"), CONFIGS[form].get("final_logit_softcapping")
    unembed = weights["model.embed_tokens.weight"] if unembed is None else unembed
    every = unembed @ (final * last)
    every = every if cap is None else cap * np.tanh(every / cap)
    chances = np.exp(every) / np.exp(every).sum()
    order = np.argsort(-chances)
    logits = order[: min(10, int((chances[order].cumsum() < 0.95).sum()) + 1)]
    apart = unembed[logits] - unembed.mean(0)
    features = [(at, *hit) for at, one in enumerate(layers) for hit in np.argwhere(one["active"] > 0).tolist()]
    columns = len(tokens)

    def alone(column, vector):
        whole = np.zeros((columns, WIDTH))
        whole[column] = vector
        return whole.ravel()

    # Each target as a row over (position, width) of the stream before its layer's MLP, or of the last stream.
    rows = [[] for _ in range(LAYERS + 1)]
    for at, column, number in features:
        rows[at].append(alone(column, layers[at]["encoder"][number] * layers[at]["factor"][column]))
    rows[LAYERS] = [alone(columns - 1, one * last) for one in apart]

    def reached(vector, start, *, middle=False):
        """Into every target, from what is written before a layer or, `middle`, between its attention and its MLP."""
        found = [np.zeros(len(part)) for part in rows]
        for at in range(start, LAYERS):
            if not (middle and at == start):
                vector = layers[at]["attention_map"] @ vector
            found[at] = np.array([row @ vector for row in rows[at]])
            vector = layers[at]["skip_map"] @ vector
        found[LAYERS] = np.array([row @ vector for row in rows[LAYERS]])
        return np.concatenate(found)

    sources = [
        reached(alone(column, layers[at]["active"][column, number] * layers[at]["decoder"][number]), at + 1)
        for at, column, number in features
    ]
    sources += [
        reached(alone(column, error), at + 1)
        for at, one in enumerate(layers) for column, error in enumerate(one["error"])
    ]  # fmt: skip
    sources += [reached(alone(column, vector), 0) for column, vector in enumerate(embedded)]
    sources += [reached(one["attention_bias"].ravel(), at, middle=True) for at, one in enumerate(layers)]
    sources += [reached(np.tile(one["decoder_bias"], columns), at + 1) for at, one in enumerate(layers)]
    sources.append(np.zeros(len(features) + len(logits)))  # no learned positions
    own = [layers[at]["encoder_bias"][number] for at, _, number in features]
    sources.append(np.array([*own, *np.zeros(len(logits))]))
    of_features = {
        key: np.array([layers[at][key][column, number] for at, column, number in features]) for key in ("active", "pre")
    }
    return {
        "features": np.array(features), "activations": of_features["active"], "logits": logits, "all_logits": every,
        "values": np.concatenate([of_features["pre"], apart @ (final * last)]), "edges": np.stack(sources, 1),
    }  # fmt: skip


def read(form):
    """A fixture: configuration, weights, transcoders, tokens, and what `adjacency` made of them."""
    with safe_open(FOLDER / f"{form}.safetensors", framework="numpy") as file:
        config = json.loads(file.metadata()["config"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    parts = [
        {name.removeprefix(first): array for name, array in arrays.items() if name.startswith(first)}
        for first in ("weights.", "transcoders.", "found.")
    ]
    return config, *parts, arrays["tokens"]


def write(form):
    """Draw and write one."""
    weights, transcoders, tokens = drawn(form)
    content = {f"weights.{name}": array for name, array in weights.items()}
    content |= {f"transcoders.{name}": array for name, array in transcoders.items()}
    content |= {f"found.{name}": array for name, array in adjacency(form, weights, transcoders, tokens).items()}
    content = {name: np.ascontiguousarray(array) for name, array in {**content, "tokens": tokens}.items()}
    path = FOLDER / f"{form}.safetensors"
    save_file(content, path, {"config": json.dumps(CONFIGS[form])})
    path.chmod(0o644)


if __name__ == "__main__":
    for name in CONFIGS:
        write(name)
