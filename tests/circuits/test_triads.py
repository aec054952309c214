"""Triads by a plain loop and by networkx; p values of graphs that are draws of the null; a planted triangle."""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import networkx as nx
import numpy as np
import pytest
from scipy import stats

from interp.circuits.triads import TRIADS, triad_null, triads
from interp.circuits.wiring import FEATURE, KINDS, LOGIT, TOKEN, joined, rewired
from interp.errors import ConfigError
from tests.circuits.test_wiring import at_random, wired


def naive(one):
    """Triads of each prompt by their text, from every three nodes."""
    found = []
    for prompt in range(one.n_prompts):
        counts: Counter = Counter()
        edges = {
            (int(a), int(b)): "-" if w < 0 else "+"
            for a, b, w in zip(one.source, one.target, one.weight, strict=True)
            if one.prompt[a] == prompt
        }
        for three in combinations(np.flatnonzero(one.prompt == prompt).tolist(), 3):
            inside = {pair: sign for pair, sign in edges.items() if set(pair) <= set(three)}
            if len(inside) < 2:
                continue
            a, b, c = sorted(three, key=lambda node: sum(node == end for _, end in inside))
            name = {node: KINDS[one.kind[node]] for node in three}
            if len(inside) == 3:  # nothing comes into a, one edge into b, two into c
                signs, shape = (inside[a, b], inside[b, c], inside[a, c]), "triangle"
            elif len({source for source, _ in inside}) == 1:
                (a,) = {source for source, _ in inside}
                b, c = sorted((node for node in three if node != a), key=lambda x: (one.kind[x], inside[a, x] == "-"))
                signs, shape = (inside[a, b], inside[a, c]), "fan-out"
            elif len({target for _, target in inside}) == 1:
                (c,) = {target for _, target in inside}
                a, b = sorted((node for node in three if node != c), key=lambda x: (one.kind[x], inside[x, c] == "-"))
                signs, shape = (inside[a, c], inside[b, c]), "fan-in"
            else:
                ((a, b),) = [pair for pair in inside if pair[1] in {source for source, _ in inside}]
                (c,) = set(three) - {a, b}
                signs, shape = (inside[a, b], inside[b, c]), "chain"
            counts[shape, (name[a], name[b], name[c]), signs] += 1
        found.append(counts)
    return found


def by_class(counts):
    return {(t.shape, t.kinds, t.signs): int(n) for t, n in zip(TRIADS, counts, strict=True) if n}


def test_there_are_144_classes():
    assert Counter(t.shape for t in TRIADS) == {"chain": 24, "fan-out": 30, "fan-in": 42, "triangle": 48}
    assert len(set(TRIADS)) == len({t.text for t in TRIADS}) == 144


@pytest.mark.parametrize("edges", [3, 30, 80])
def test_counts_are_those_of_a_loop(edges):
    rng = np.random.default_rng(edges)
    one = joined([at_random(rng, edges), wired(3, [], []), at_random(rng, edges + 7)])
    found = triads(one)
    assert [by_class(row) for row in found.counts] == [dict(row) for row in naive(one)]
    frame = found.to_frame()
    assert int(frame["count"].sum()) == int(found.counts.sum())
    assert set(frame["prompt"]) == {0, 1, 2}


def test_untyped_counts_are_those_of_networkx():
    rng = np.random.default_rng(5)
    one = at_random(rng, 60, features=20)
    graph = nx.DiGraph(list(zip(one.source.tolist(), one.target.tolist(), strict=True)))
    census = nx.triadic_census(graph)
    shapes: Counter = Counter()
    for triad, count in zip(TRIADS, triads(one).counts[0], strict=True):
        shapes[triad.shape] += int(count)
    names = {"021C": "chain", "021D": "fan-out", "021U": "fan-in", "030T": "triangle"}
    assert {names[code]: census[code] for code in names} == dict(shapes)


def test_rewired_copies_are_counted_as_graphs_of_their_own():
    rng = np.random.default_rng(6)
    one = joined([at_random(rng, 40) for _ in range(3)])
    found = triad_null(one, samples=40, seed=4)
    counts = [triads(replace(one, target=some)).counts for some in rewired(one, samples=40, seed=4)]
    np.testing.assert_array_equal(found.null, np.sum(counts, 1))
    np.testing.assert_allclose(found.expected, np.mean(counts, 0), atol=1e-12)
    np.testing.assert_array_equal(found.counts, triads(one).counts)
    own = found.counts.sum(0)
    for i in range(144):
        more, fewer = (found.null[:, i] >= own[i]).sum(), (found.null[:, i] <= own[i]).sum()
        if (found.null[:, i] == own[i]).all():
            assert np.isnan(found.p[i])
            assert np.isnan(found.q[i])
        else:
            assert found.p[i] == min(1, 2 * (1 + min(more, fewer)) / 41)
    tested = ~np.isnan(found.p)
    np.testing.assert_array_equal(found.q[tested], stats.false_discovery_control(found.p[tested]))
    assert len(found.to_frame()) == int((found.counts.any(0) | found.null.any(0)).sum())


def test_p_values_of_draws_of_the_null():
    """100 graphs rewired from one: no class's p is below .05 too often, and one near all values is near uniform."""
    rng = np.random.default_rng(7)
    base = joined([at_random(rng, 45) for _ in range(4)])
    draws = rewired(base, samples=100, swaps=10, seed=8)
    found = [triad_null(replace(base, target=t), samples=79, swaps=4, seed=i) for i, t in enumerate(draws)]
    p = np.stack([one.p for one in found])
    common = np.flatnonzero(~np.isnan(p).any(0) & (np.mean([one.counts.sum(0) for one in found], 0) > 15))
    assert len(common) > 5
    # The lower bound of each of the classes at a level shared among them (Bonferroni).
    for i in common:
        count = int((p[:, i] < 0.05).sum())
        assert stats.binomtest(count, 100).proportion_ci(1 - 0.05 / len(common), "exact").low <= 0.05, TRIADS[i].text
    assert 0.35 < (p[:, common] <= 0.5).mean() < 0.55  # discrete, so a little less than half
    any_found = sum(bool((one.q <= 0.05).any()) for one in found)
    assert stats.binomtest(any_found, 100).proportion_ci(0.95, "exact").low <= 0.05


def test_a_planted_triangle_is_found():
    """Each prompt has three triangles of + edges among edges at random."""
    rng = np.random.default_rng(9)
    parts = []
    for _ in range(12):
        nodes = [(FEATURE, i % 3, i) for i in range(24)] + [(LOGIT, 3, i) for i in range(2)]
        edges = {}
        for i in range(3):
            a, b, c = 3 * i, 3 * i + 1, 24
            edges |= {(a, b): 1.0, (b, c): 1.0, (a, c): 1.0}
        while len(edges) < 30:
            a, b = rng.integers(26, size=2).tolist()
            if nodes[a][1] < nodes[b][1] and nodes[a][0] == FEATURE:
                edges.setdefault((a, b), float(rng.choice([-1, 1])))
        parts.append(wired(3, nodes, [(*ends, w) for ends, w in edges.items()]))
    found = triad_null(joined(parts), samples=999, seed=1)
    name = "feature -> feature (+) -> logit (+), feature -> logit (+)"
    planted = found.to_frame().set_index("triad").to_dict("index")[name]
    assert planted["q"] <= 0.05
    assert planted["count"] > 1.5 * planted["expected"]
    assert planted["prompts"] == 12
    excess = found.excess()[[t.text for t in TRIADS].index(name)]
    assert float(excess.low) > 0
    assert found.moved > 0.5


def test_nothing_to_count_and_bad_options():
    none = wired(2, [], [])
    assert triads(none).counts.shape == (1, 144)
    assert not triads(none).to_frame().size
    found = triad_null(none)
    assert np.isnan(found.p).all()
    assert not len(found.to_frame())
    chain = wired(2, [(TOKEN, -1, 1), (FEATURE, 0, 1), (LOGIT, 2, 1)], [(0, 1, 1.0), (1, 2, -1.0)])
    assert triads(chain).to_frame()["triad"].tolist() == ["token -> feature (+) -> logit (-)"]
    assert np.isnan(triad_null(chain).p).all()  # nothing can be rewired
    with pytest.raises(ConfigError, match="at least 39"):
        triad_null(chain, samples=19)
