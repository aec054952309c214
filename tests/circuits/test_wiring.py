"""Collapsed graphs by a plain loop; rewired ones keep what they promise, and all of them are equally likely."""

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
import torch
from scipy import stats

from interp.circuits.graph import Graph, attribution_graph
from interp.circuits.influence import Pruned, influence, prune
from interp.circuits.wiring import ERROR, FEATURE, KINDS, LOGIT, TOKEN, Wiring, joined, numbered, rewired, wiring
from interp.errors import ConfigError
from interp.models.load import load_model
from tests.circuits.test_graph import asked, drawn
from tests.models.test_sweeps import plain


def wired(n_layers, nodes, edges):
    """The wiring of one prompt: nodes are (kind, layer, number), edges (source, target, weight) by place."""
    kind, layer, number = np.array(nodes, np.int64).reshape(-1, 3).T
    a, b = (np.array([edge[i] for edge in edges], np.int32) for i in (0, 1))
    weight = np.array([edge[2] for edge in edges], np.float32)
    return Wiring(n_layers, 1, np.zeros(len(kind), np.int32), kind, layer, number, a, b, weight)


def at_random(rng, edges, *, tokens=4, features=12, layers=3, logits=2):
    """One prompt's wiring: edges at random among all that may be."""
    nodes = [(TOKEN, -1, i) for i in range(tokens)] + [(ERROR, i, -1) for i in range(layers)]
    nodes += [(FEATURE, i % layers, i) for i in range(features)] + [(LOGIT, layers, i) for i in range(logits)]
    possible = [
        (a, b)
        for a, b in product(range(len(nodes)), repeat=2)
        if nodes[a][1] < nodes[b][1] and nodes[b][0] in (FEATURE, LOGIT)
    ]
    chosen = rng.choice(len(possible), edges, replace=False)
    return wired(layers, nodes, [(*possible[i], float(rng.normal())) for i in chosen])


def told(one):
    """The edges by name, with their weights."""
    rows = one.to_frame().itertuples(index=False)
    return {tuple(row)[:-1]: row.weight for row in rows}


def test_positions_collapse_and_weights_add_up():
    # Columns 0 1 2 hold tokens 9 4 9. Feature 5 of layer 0 is active at columns 0 and 2, feature 7 of layer 1 at 2.
    features = torch.tensor([[0, 0, 5], [0, 2, 5], [1, 2, 7]])
    edges = torch.zeros(4, 3 + 6 + 3 + 6)  # three features and a logit; features, errors, tokens, biases
    edges[2, 0], edges[2, 1] = 1.0, -3.0  # 5 -> 7 from two columns: -2
    edges[2, 3 + 0], edges[2, 3 + 2] = 0.5, 0.25  # error of layer 0 at columns 0 and 2: .75
    edges[3, 2] = 2.0
    edges[3, 3 + 3] = 4.0  # error of layer 1, and not kept
    edges[1, 9 + 0], edges[1, 9 + 2], edges[1, 9 + 1] = 1.0, 1.5, -1.0  # token 9 twice: 2.5
    graph = Graph(
        "",
        torch.tensor([9, 4, 9]),
        2,
        2,
        features,
        torch.ones(3),
        torch.tensor([6]),
        torch.ones(1),
        edges.sum(1),
        edges,
    )
    kept = (edges != 0)[:, :12]
    kept[3, 6] = False
    one = wiring(graph, Pruned(influence(graph), torch.ones(3).bool(), kept[:, 3:9].any(0), kept[:, 9:].any(0), kept))
    expected = {
        (0, "feature", 0, 5, "feature", 1, 7): -2.0,
        (0, "error", 0, -1, "feature", 1, 7): 0.75,
        (0, "feature", 1, 7, "logit", 2, 6): 2.0,
        (0, "token", -1, 9, "feature", 0, 5): 2.5,
        (0, "token", -1, 4, "feature", 0, 5): -1.0,
    }
    assert told(one) == pytest.approx(expected)
    with pytest.raises(ConfigError, match="another graph"):
        wiring(graph, Pruned(influence(graph), kept[0], kept[0], kept[0], kept[:, :11]))


def test_a_traced_graph_collapses_as_a_loop_would():
    graph = attribution_graph(load_model(plain("llama"), device="cpu"), drawn("jumprelu"), asked(6))
    pruned = prune(graph)
    features, columns = len(graph.features), len(graph.tokens)
    expected: dict = defaultdict(float)
    for target, source in pruned.edges.nonzero().tolist():
        if source < features:
            a = ("feature", int(graph.features[source, 0]), int(graph.features[source, 2]))
        elif source < features + graph.n_layers * columns:
            a = ("error", (source - features) // columns, -1)
        else:
            a = ("token", -1, int(graph.tokens[source - features - graph.n_layers * columns]))
        if target < features:
            b = ("feature", int(graph.features[target, 0]), int(graph.features[target, 2]))
        else:
            b = ("logit", graph.n_layers, int(graph.logits[target - features]))
        expected[(0, *a, *b)] += float(graph.edges[target, source])
    assert len(expected) > 50
    assert told(wiring(graph, pruned)) == pytest.approx(dict(expected), abs=1e-5)


def test_wirings_are_joined_and_taken():
    rng = np.random.default_rng(0)
    parts = [at_random(rng, edges) for edges in (9, 5, 12)]
    whole = joined(parts)
    assert [int((whole.edge_prompt == i).sum()) for i in range(3)] == [9, 5, 12]
    for order in ([2, 0], [1], [0, 1, 2]):
        again = whole.take(order)
        assert told(again) == told(joined([parts[i] for i in order]))
        assert again.n_prompts == len(order)


def degrees(one, targets):
    """For each stratum: edges out of each source by sign, edges into each target, and how many edges."""
    out, into, size = Counter(), Counter(), Counter()
    for a, b, negative in zip(one.source.tolist(), targets.tolist(), one.negative.tolist(), strict=True):
        stratum = (one.prompt[a], one.kind[a], one.layer[a], one.kind[b], one.layer[b])
        out[stratum, a, negative] += 1
        into[stratum, b] += 1
        size[stratum] += 1
    return out, into, size


@pytest.mark.parametrize("edges", [6, 40, 90])  # of 130 that may be
def test_rewiring_keeps_layers_degrees_and_signs(edges):
    rng = np.random.default_rng(edges)
    one = joined([at_random(rng, edges) for _ in range(4)])
    targets = rewired(one, samples=20, seed=1)
    for some in targets:
        again = replace(one, target=some)  # upwards, so without cycles, and no edge twice: or it would raise
        assert degrees(again, some) == degrees(one, one.target)
    if edges == 40:
        assert (targets != one.target).mean() > 0.4
        assert len({some.tobytes() for some in targets}) == 20
    np.testing.assert_array_equal(targets, rewired(one, samples=20, seed=1))
    assert edges == 6 or (targets != rewired(one, samples=20, seed=2)).any()


def test_all_graphs_of_the_same_degrees_are_equally_likely():
    # Three tokens, three features; token 0 has a + and a - edge, and feature 0 has two edges.
    nodes = [*((TOKEN, -1, i) for i in range(3)), *((FEATURE, 0, i) for i in range(3))]
    one = wired(1, nodes, [(0, 3, 1.0), (0, 4, -1.0), (1, 3, 1.0), (2, 5, -1.0)])
    signs = {0: [1, -1], 1: [1], 2: [-1]}
    possible = set()
    for chosen in combinations(product(range(3), range(3, 6)), 4):
        if Counter(a for a, _ in chosen) == {0: 2, 1: 1, 2: 1} and Counter(b for _, b in chosen) == {3: 2, 4: 1, 5: 1}:
            for first in ((1, -1), (-1, 1)):
                given = {0: iter(first), 1: iter(signs[1]), 2: iter(signs[2])}
                possible.add(frozenset((a, b, next(given[a])) for a, b in chosen))
    found = Counter(
        frozenset(zip(one.source.tolist(), some.tolist(), np.where(one.negative, -1, 1).tolist(), strict=True))
        for some in rewired(one, samples=4000, swaps=20, seed=3)
    )
    assert set(found) == possible
    assert stats.chisquare(list(found.values())).pvalue > 1e-3


@pytest.mark.parametrize("largest", [5, 2**40])  # the second would not fit one key of 64 bits
def test_rows_are_numbered_in_order(largest):
    rng = np.random.default_rng(0)
    rows = rng.integers(-1, 2, (60, 3)) * largest
    first, number = numbered(*rows.T)
    distinct, expected = np.unique(rows, axis=0, return_inverse=True)
    np.testing.assert_array_equal(rows[first], distinct)
    np.testing.assert_array_equal(number, expected.reshape(-1))


def test_a_wiring_that_cannot_be_is_refused():
    nodes = [(TOKEN, -1, 1), (FEATURE, 0, 1), (FEATURE, 1, 1), (LOGIT, 2, 1), (ERROR, 1, -1)]
    one = wired(2, nodes, [(0, 1, 1.0), (1, 2, 1.0)])
    for edges, message in (
        ([(2, 1, 1.0)], "higher layer"),
        ([(0, 1, 1.0), (0, 1, 2.0)], "an edge twice"),
        ([(0, 4, 1.0)], "into a token or an error"),
        ([(0, 9, 1.0)], "edges to others"),
    ):
        with pytest.raises(ConfigError, match=message):
            wired(2, nodes, edges)
    with pytest.raises(ConfigError, match="a node twice"):
        wired(2, [*nodes, nodes[0]], [])
    with pytest.raises(ConfigError, match="nodes of others"):
        replace(one, n_prompts=0)
    both = joined([one, one])
    with pytest.raises(ConfigError, match="between two prompts"):
        replace(both, target=both.target + np.array([5, 0, 0, 0], np.int32))
    with pytest.raises(ConfigError, match="same number of layers"):
        joined([one, wired(3, [], [])])
    with pytest.raises(ConfigError, match="any"):
        joined([])
    with pytest.raises(ConfigError, match="different numbers below 1"):
        one.take([0, 0])
    with pytest.raises(ConfigError, match="at least one copy"):
        rewired(one, samples=0)
    assert KINDS[TOKEN] == "token"
    assert rewired(wired(2, [], []), samples=3).shape == (3, 0)
