"""The folder of a finished study of circuits, drawn at random: what a page is made of, without any model."""

import math
import random

from interp.files import write_json

CATEGORIES = ("harmful_content", "cybercrime", "self_harm")
KINDS = ("harmful", "safe_contrast", "benign_act")
WORDS = """
how do i make a weapon at home for the village course please explain in detail what sorry cannot help with that
poison soup hack password bank account network garden recipe history safely legal policy kill process thread
""".split()  # noqa: SIM905 (a text is easier to read)
HOSTILE = "</script><script>window.broken=1</script><img src=x onerror='window.broken=2'>"


def estimate(value, width, n):
    return {"value": value, "low": value - width, "high": value + width, "n": n}


def share(value, n):
    half = 1.96 * math.sqrt(max(value * (1 - value), 0.01) / n)
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half), "n": n}


def text_of(rng, size):
    return [rng.choice(WORDS) for _ in range(size)]


def group_name(category, kind):
    return category if kind == "harmful" else f"{category}_{kind}"


def feature(rng, layer, number, hostile=False):
    groups, favourite = {}, rng.choice(CATEGORIES)
    for category in CATEGORIES:
        for kind in KINDS:
            if rng.random() < 0.03:
                continue
            bias = 0.5 if (category == favourite and kind == "harmful") else 0.12
            frequency = min(1.0, max(0.0, rng.random() ** (1 / bias) * 1.1))
            mean = None if frequency < 0.005 else abs(rng.gauss(2, 1)) + 0.1
            groups[group_name(category, kind)] = {
                "frequency": share(frequency, 41),
                "mean_activation": None if mean is None else estimate(mean, 0.4, round(41 * frequency) or 1),
                "importance": 0.0 if mean is None else frequency * mean,
                "influence": None if mean is None else estimate(frequency * 0.01, 0.002, 41),
            }
    words = rng.sample(WORDS, 12)
    tops = [[f" {word}", round(rng.random(), 3)] for word in words[:6]]
    if hostile:
        tops.insert(0, [HOSTILE, 0.9])
    contexts = []
    for i in range(4):
        tokens = [f" {word}" if k else word for k, word in enumerate(text_of(rng, rng.randint(9, 24)))]
        at = rng.randrange(len(tokens))
        if hostile and i == 0:  # the peak
            tokens[at] = HOSTILE
        activation = abs(rng.gauss(3, 1))
        contexts.append({"tokens": tokens, "at": at, "activation": activation, "prompt": f"{favourite}-{i:02d}"})
    name = f"L{layer}_F{number}"
    return {
        "name": name, "layer": layer, "feature": number, "groups": groups, "top_tokens": tops,
        "bottom_tokens": [[f" {word}", -round(rng.random(), 3)] for word in words[6:]], "contexts": contexts,
        "sentence": f"{name} is most active on {favourite} prompts.",
    }  # fmt: skip


def contrasts(rng, features):
    categories = {}
    for category in CATEGORIES:
        rows = []
        for one in features:
            safe = abs(rng.gauss(0, 0.7))
            real = rng.random() < 0.12
            harmful = max(0.0, safe + (abs(rng.gauss(1.2, 0.7)) if real else rng.gauss(0, 0.12)))
            discovered = real and harmful - safe > 0.4
            survives = [discovered and rng.random() < 0.8 for _ in range(2)]
            confirmed = all(survives)
            rows.append(
                {
                    "name": one["name"], "layer": one["layer"], "feature": one["feature"], "harmful_mean": harmful,
                    "safe_mean": safe, "effect": estimate(harmful - safe, 0.2 + 0.2 * rng.random(), 13),
                    "auc": min(1.0, 0.5 + abs(harmful - safe) / 3), "p": 0.001 if discovered else rng.random(),
                    "discovered": discovered, "confirmed": confirmed, "survives_safe_contrast": survives[0],
                    "survives_benign_act": survives[1],
                    "kind": "unique" if confirmed else "shared" if discovered else "none",
                    "sentence": f"{one['name']}: {harmful:.2f} on harmful prompts, {safe:.2f} on their safe twins.",
                }
            )  # fmt: skip
        categories[category] = {"pairs": {"discovery": 20, "confirmation": 13, "causal": 8}, "features": rows}
    said = "Without the confirmed features the answer moves by 1.31 nats; without random ones by 0.12."
    causal = [
        {"name": "confirmed features ablated", "effect": estimate(1.31, 0.42, 24), "control": estimate(0.12, 0.15, 24),
         "verdict": "supported", "sentence": said},
        {"name": "confirmed features added to safe prompts", "effect": estimate(0.35, 0.41, 24),
         "control": estimate(-0.05, 0.2, 24), "verdict": "undecided", "sentence": "Chance can do as much."},
        {"name": "motif edges cut", "effect": estimate(-0.08, 0.12, 24), "control": estimate(0.02, 0.1, 24),
         "verdict": "not supported", "sentence": ""},
    ]  # fmt: skip
    return {"categories": categories, "causal": causal}


def end(kind, name):
    return {"type": kind, "name": name}


def triad(name, shape, types, signs, count, expected, p):
    return {
        "name": name,
        "shape": shape,
        "types": types,
        "signs": signs,
        "count": count,
        "expected": expected,
        "p": p,
        "q": p,
    }


def motifs(rng, category, features):
    sets = []
    for i in range(30):
        a, b, c = sorted(rng.sample(features, 3), key=lambda one: one["layer"])
        token = end("token", HOSTILE if i == 0 and category == CATEGORIES[0] else f" {rng.choice(WORDS)}")
        edges = [
            {"source": token, "target": end("feature", a["name"]), "sign": 1},
            {"source": end("feature", a["name"]), "target": end("feature", b["name"]), "sign": rng.choice([1, -1])},
            {"source": end("feature", b["name"]), "target": end("logit", " I"), "sign": rng.choice([1, 1, -1])},
        ]
        if i % 3 == 1:
            edges.insert(2, {"source": end("feature", a["name"]), "target": end("feature", c["name"]), "sign": 1})
        if i % 4 == 2:
            edges.append({"source": end("error", "L0_error"), "target": end("feature", b["name"]), "sign": -1})
        high, low = (0.95, 0.0) if i == 0 else (0.3 + 0.6 * rng.random(), rng.random())
        sets.append(
            {"edges": edges, "support_harmful": share(high, 41), "support_safe": share(high * low, 41),
             "p": 0.002, "q": 0.03, "confirmed": rng.random() < 0.5, "sentence": "They write the refusal together."}
        )  # fmt: skip
    triads = [
        triad("chain token->feature+->logit-", "chain", ["token", "feature", "logit"], [1, -1], 123, 80.2, 0.002),
        triad("fan_out feature->feature+,feature+", "fan_out", ["feature"] * 3, [1, 1], 342, 351.7, 0.6),
        triad("fan_in error->-,feature->+feature", "fan_in", ["error", "feature", "feature"], [-1, 1], 51, 88.0, 0.004),
        triad("triangle feature", "triangle", ["feature", "feature", "logit"], [1, 1, -1], 19, None, None),
    ]
    return {"category": category, "graphs": {"harmful": 41, "safe": 41}, "sets": sets, "triads": triads}


def graph(rng, slug, features, *, layers=6, tokens=None, per_cell=3, hostile=False):
    tokens = tokens or [f" {word}" if k else word for k, word in enumerate(text_of(rng, rng.randint(7, 18)))]
    if hostile:
        tokens[1] = HOSTILE
    nodes, known = [], {layer: [one for one in features if one["layer"] == layer] for layer in range(layers)}

    def node(name, layer, column, kind, **more):
        made = {
            "node_id": name, "feature": 0, "layer": layer, "ctx_idx": column, "feature_type": kind, "token_prob": 0.0,
            "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "jsNodeId": name, "clerp": "",
            "influence": None, "activation": None,
        }  # fmt: skip
        nodes.append(made | more)

    for layer in range(layers):
        for column in range(1, len(tokens)):
            crowd = per_cell * (4 if column == len(tokens) - 1 else 1)
            some = rng.sample(known[layer], min(len(known[layer]), rng.randint(0, crowd)))
            for one in some:
                name = f"{layer}_{one['feature']}_{column}"
                node(name, str(layer), column, "cross layer transcoder", activation=abs(rng.gauss(2, 1)))
            if rng.random() < 0.4:
                node(f"{layer}_-1_{column}", str(layer), column, "mlp reconstruction error", feature=-1)
    for column in range(len(tokens)):
        node(f"E_{column + 5}_{column}", "E", column, "embedding")
    for rank, (answer, chance) in enumerate(((" I", 0.61), (" Sorry", 0.2), (" Sure", 0.1))):
        node(
            f"{layers + 1}_{rank}_{len(tokens) - 1}", str(layers + 1), len(tokens) - 1, "logit", token_prob=chance,
            is_target_logit=rank == 0, clerp=f'Output "{answer}" (p={chance:.3f})',
        )  # fmt: skip
    sources = [one for one in nodes if one["feature_type"] != "logit"]
    weights = [rng.paretovariate(1.2) for _ in sources]
    order, total, reached = sorted(range(len(sources)), key=lambda i: -weights[i]), sum(weights), 0.0
    for i in order:
        reached += weights[i] / total
        sources[i]["influence"] = min(reached, 1.0)
    links = []
    for target in nodes:
        if target["feature_type"] not in ("cross layer transcoder", "logit"):
            continue
        below = [
            one
            for one in sources
            if (one["layer"] == "E" or int(one["layer"]) < int(target["layer"])) and one["ctx_idx"] <= target["ctx_idx"]
        ]
        for source in rng.sample(below, min(len(below), 14)):
            links.append({"source": source["node_id"], "target": target["node_id"], "weight": rng.gauss(0.1, 1) ** 3})
    return {
        "metadata": {
            "slug": slug, "scan": "x", "transcoder_list": [], "prompt_tokens": tokens, "prompt": "".join(tokens),
            "node_threshold": 0.8, "schema_version": 1,
        },
        "qParams": {}, "nodes": nodes, "links": links,
    }  # fmt: skip


def make_run(folder, *, features=60, layers=6, graphs=2, seed=0, per_cell=3, hostile=True):
    """Write a whole run; the most important feature, a motif, a prompt and a finding hold what would break a page."""
    rng = random.Random(seed)
    numbers = rng.sample(range(16000), features)
    made = [feature(rng, i % layers, number, hostile=hostile and i == 0) for i, number in enumerate(numbers)]
    if hostile:
        made[0]["groups"]["harmful_content"]["importance"] = 99.0
    findings = [
        {"text": "34 features tell harmful_content from its safe twins (AUC 0.81 [0.74, 0.88], shuffled labels 0.52 "
                 "[0.44, 0.60], 13 unseen pairs).", "verdict": "supported"},
        {"text": "12 of them survive both controls, so they mark more than topic or form.", "verdict": "supported"},
        {"text": "Cutting the motifs moves the answer by −0.08 [−0.20, 0.04] nats; random edges by 0.02 [−0.08, 0.12].",
         "verdict": "not supported"},
        {"text": "Features added to safe prompts move the answer by 0.35 [−0.06, 0.76] nats.", "verdict": "undecided"},
        {"text": f"The prompts are as worded{f' {HOSTILE}' if hostile else ''}.", "verdict": None},
    ]  # fmt: skip
    write_json(
        folder / "config.json",
        {
            "model": "google/gemma-2-2b-it", "transcoders": "gemma-scope-2b-pt-transcoders", "categories": CATEGORIES,
            "settings": {"seed": 0, "features_per_graph": 2048, "threshold": 0.8, "parts": [20, 13, 8]},
            "findings": findings, "power": [{"category": c, "pairs": 13, "detectable": 0.4} for c in CATEGORIES],
        },
    )  # fmt: skip
    groups = [
        {"name": group_name(category, kind), "category": category, "kind": kind, "prompts": 41}
        for category in CATEGORIES
        for kind in KINDS
    ]
    write_json(folder / "category_features.json", {"groups": groups, "features": made})
    write_json(folder / "contrasting_features.json", contrasts(rng, made))
    for category in CATEGORIES[:2]:
        write_json(folder / f"{category}_motifs.json", motifs(rng, category, made))
    for category in CATEGORIES:
        for kind in KINDS:
            for i in range(graphs):
                name, odd = group_name(category, kind), hostile and category == CATEGORIES[0] and kind == "harmful"
                slug = f"{category}-weapons-{i + 1:02d}"
                content = graph(rng, slug, made, layers=layers, per_cell=per_cell, hostile=odd and i == 0)
                write_json(folder / "graphs" / name / f"{slug}.json", content)
    return folder
