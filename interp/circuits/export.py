"""A graph as JSON that Neuronpedia and the front end of circuit-tracer read.

Their nodes are features, errors, tokens and logits; biases have no place there and are left out, so that the links into
a node no longer sum to its pre-activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from interp.circuits.graph import Graph
from interp.circuits.influence import Pruned
from interp.errors import ConfigError


def neuronpedia(
    graph: Graph,
    kept: Pruned,
    tokens: Sequence[str],
    answers: Sequence[str],
    *,
    slug: str,
    scan: str,
    threshold: float = 0.8,
) -> dict[str, Any]:
    """The kept part.

    `tokens` and `answers` are the texts of the prompt's tokens and of the logits; `scan` names the transcoders whose
    features the front end shows, `threshold` is the share of influence that pruning kept.
    """
    if len(tokens) != len(graph.tokens) or len(answers) != len(graph.logits):
        raise ConfigError(
            f"{len(tokens)} and {len(answers)} texts do not fit {len(graph.tokens)} tokens, {len(graph.logits)} logits"
        )
    nodes = _nodes(graph, kept, answers)
    features, sources = len(graph.features), kept.edges.shape[1]
    links = []
    for target, source in kept.edges.nonzero().tolist():
        end = target if target < features else sources + target - features
        weight = float(graph.edges[target, source])
        links.append({"source": nodes[source]["node_id"], "target": nodes[end]["node_id"], "weight": weight})
    return {
        "metadata": {
            "slug": slug, "scan": scan, "transcoder_list": [], "prompt_tokens": list(tokens), "prompt": graph.text,
            "node_threshold": threshold, "schema_version": 1,
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": list(nodes.values()),
        "links": links,
    }  # fmt: skip


def _nodes(graph: Graph, kept: Pruned, answers: Sequence[str]) -> dict[int, dict[str, Any]]:
    """The nodes that are left, by their number as a source; logits come after all sources."""
    found = kept.influence
    features, errors, tokens, _ = graph.sources
    size = torch.cat([found.features, found.errors, found.tokens])
    order = size.argsort(descending=True, stable=True)
    reached = torch.empty_like(size)
    reached[order] = size[order].cumsum(0) / size.sum()
    left = torch.cat([kept.features, kept.errors, torch.ones_like(kept.tokens)])
    columns, nodes = len(graph.tokens), dict[int, dict[str, Any]]()
    for number in left.nonzero().flatten().tolist():
        if number < features:
            layer, column, feature = graph.features[number].tolist()
            made = _node(
                f"{layer}_{feature}_{column}", _paired(layer, feature), str(layer), column, "cross layer transcoder"
            )
            made |= {"jsNodeId": f"{layer}_{feature}-0", "activation": float(graph.activations[number])}
        elif number < features + errors:
            layer, column = divmod(number - features, columns)
            made = _node(f"{layer}_-1_{column}", -1, str(layer), column, "mlp reconstruction error")
            made |= {"jsNodeId": f"{layer}_-1-{column}"}
        else:
            column = number - features - errors
            token = int(graph.tokens[column])
            made = _node(f"E_{token}_{column}", column, "E", column, "embedding")
            made |= {"jsNodeId": f"E_{token}-{column}"}
        nodes[number] = made | {"influence": float(reached[number])}
    for number, (token, chance, text) in enumerate(
        zip(graph.logits.tolist(), graph.probabilities.tolist(), answers, strict=True)
    ):
        layer = str(graph.n_layers + 1)
        made = _node(f"{layer}_{token}_{graph.read}", token, layer, graph.read, "logit")
        nodes[features + errors + tokens + number] = made | {
            "jsNodeId": f"L_{token}-{graph.read}", "token_prob": chance, "is_target_logit": number == 0,
            "clerp": f'Output "{text}" (p={chance:.3f})',
        }  # fmt: skip
    return nodes


def _node(name: str, feature: int, layer: str, column: int, kind: str) -> dict[str, Any]:
    return {
        "node_id": name, "feature": feature, "layer": layer, "ctx_idx": column, "feature_type": kind, "token_prob": 0.0,
        "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "jsNodeId": name, "clerp": "", "influence": None,
        "activation": None,
    }  # fmt: skip


def _paired(layer: int, feature: int) -> int:
    """Cantor's number of the two."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature
