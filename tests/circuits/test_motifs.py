"""Frequent edge sets by trying all; what is cut is said; sentences."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from interp.circuits.motifs import edge_sets
from interp.circuits.wiring import ERROR, FEATURE, LOGIT, TOKEN, joined
from interp.errors import ConfigError
from tests.circuits.test_wiring import at_random, wired

NODES = [(FEATURE, 0, 12), (FEATURE, 2, 7), (FEATURE, 2, 7 + 1), (LOGIT, 4, 99), (TOKEN, -1, 3), (ERROR, 1, -1)]


def naive(one, support, size, categories):
    """Prompts that have each connected set of edges, from all sets of edges that any prompt has."""
    has = [set() for _ in range(one.n_prompts)]
    for row in one.to_frame().itertuples(index=False):
        if row.source_kind == "feature":
            a, b = tuple(row)[1:4], tuple(row)[4:7]
            has[row.prompt].add((a, b, -1 if row.weight < 0 else 1))
    found = {}
    for count in range(1, size + 1):
        for chosen in combinations(sorted(set().union(*has)), count):
            nodes, left = set(chosen[0][:2]), list(chosen[1:])
            while met := [edge for edge in left if nodes & set(edge[:2])]:
                nodes |= set(met[0][:2])
                left.remove(met[0])
            there = [set(chosen) <= one_has for one_has in has]
            shares = [
                np.mean([t for t, c in zip(there, categories, strict=True) if c == name])
                for name in set(categories) - {""}
            ]
            if not left and max(shares) >= support:
                found[frozenset(chosen)] = there
    return found


def named(sets):
    """The same from the result."""
    found = {}
    for i, row in enumerate(sets.sets):
        edges = [sets.edges[edge].tolist() for edge in row if edge >= 0]
        kinds = {FEATURE: "feature", LOGIT: "logit"}
        key = frozenset((("feature", a, m), (kinds[k], b, n), s) for a, m, k, b, n, s in edges)
        assert key not in found
        found[key] = sets.present[:, i].tolist()
    return found


@pytest.mark.parametrize(("support", "size"), [(0.3, 3), (0.45, 3), (0.6, 2), (0.3, 1)])
def test_sets_and_supports_are_those_of_trying_all(support, size):
    rng = np.random.default_rng(1)
    one = joined([at_random(rng, 15, tokens=1, features=5, logits=1) for _ in range(12)])
    categories = ["a"] * 6 + ["b"] * 4 + [""] * 2
    found = edge_sets(one, support=support, size=size, categories=categories)
    expected = naive(one, support, size, categories)
    assert len(expected) > 3
    assert named(found) == expected
    assert found.left_out == 0
    sizes = Counter((found.sets >= 0).sum(1).tolist())
    assert max(sizes) <= size
    shares = found.shares("a")
    np.testing.assert_allclose(shares.value, found.present[:6].mean(0))
    interval = stats.binomtest(int(found.present[:6, 0].sum()), 6).proportion_ci(0.95, "wilson")
    assert (float(shares.low[0]), float(shares.high[0])) == pytest.approx(tuple(interval))
    closed = found.closed()
    for i, row in enumerate(found.sets):
        own = set(row.tolist()) - {-1}
        larger = [
            j for j, other in enumerate(found.sets)
            if own < set(other.tolist()) - {-1} and (found.present[:, i] == found.present[:, j]).all()
        ]  # fmt: skip
        assert closed[i] == (not larger)


def test_work_is_bounded_and_what_was_cut_is_said(monkeypatch):
    rng = np.random.default_rng(2)
    one = joined([at_random(rng, 40, features=8) for _ in range(10)])
    whole = edge_sets(one, support=0.2)
    monkeypatch.setattr("interp.circuits.motifs._CANDIDATES", 50)  # many small portions find the same
    assert named(edge_sets(one, support=0.2)) == named(whole)
    less = edge_sets(one, support=0.2, most=10)
    assert less.left_out > 0
    assert whole.left_out == 0
    sizes = (less.sets >= 0).sum(1)
    assert Counter(sizes.tolist())[1] == Counter(sizes.tolist())[2] == 10
    assert Counter(sizes.tolist())[3] <= 10
    all_single = np.sort(whole.present.mean(0)[(whole.sets >= 0).sum(1) == 1])
    np.testing.assert_allclose(np.sort(less.present.mean(0)[sizes == 1]), all_single[-10:])


def test_a_set_is_told_in_a_sentence():
    with_both = wired(4, NODES, [(0, 1, 1.0), (1, 3, 2.0), (4, 0, 1.0), (5, 1, 1.0)])
    with_one = wired(4, NODES, [(0, 1, 1.0), (1, 3, -2.0), (4, 0, 1.0)])
    found = edge_sets(joined([with_both] * 3 + [with_one]), support=0.5, categories=["harmful"] * 4)
    assert [found.text(i) for i in range(len(found.sets))] == [
        "L0_F12 -> L2_F7 (+)",
        "L2_F7 -> token 99 (+)",
        "L0_F12 -> L2_F7 (+), L2_F7 -> token 99 (+)",
    ]
    assert found.closed().tolist() == [True, False, True]
    # Wilson's interval of 3 of 4.
    told = "L0_F12 -> L2_F7 (+), L2_F7 -> sorry (+): in 75 % [30, 95] of harmful prompts"
    assert found.sentence(2, "harmful", {99: "sorry"}) == told
    frame = found.to_frame()
    assert frame["edges"].tolist() == [1, 1, 2]
    assert frame["share"].tolist() == [1.0, 0.75, 0.75]
    assert found.shares("harmful", [0, 0, 1, 1]).n.tolist() == [2, 2, 2]


def test_nothing_to_find_and_bad_options():
    one = joined([wired(4, NODES, [(4, 0, 1.0)])] * 2)
    found = edge_sets(one)
    assert found.present.shape == (2, 0)
    assert not len(found.to_frame())
    with pytest.raises(ConfigError, match="support is a share"):
        edge_sets(one, support=0.0)
    with pytest.raises(ConfigError, match="3 categories do not fit 2"):
        edge_sets(one, categories=["a"] * 3)
    with pytest.raises(ConfigError, match="no prompt has a category"):
        edge_sets(one, categories=["", ""])
    with pytest.raises(ConfigError, match="no prompt is of the category 'safe'"):
        found.shares("safe")
