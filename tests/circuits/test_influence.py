"""Influence by walking all paths; a cap that drops nothing; what pruning keeps."""

from dataclasses import replace

import pytest
import torch

from interp.circuits.graph import attribution_graph
from interp.circuits.influence import capped, influence, prune
from interp.errors import ConfigError
from interp.models.load import load_model
from tests.circuits.test_graph import asked, drawn
from tests.models.test_sweeps import plain


@pytest.fixture(scope="module", params=["jumprelu", "cross"])
def graph(request):
    return attribution_graph(load_model(plain("llama"), device="cpu"), drawn(request.param), asked(6))


def test_influence_is_the_sum_over_all_paths(graph):
    features, errors, tokens, _ = graph.sources
    size = graph.edges[:, : features + errors + tokens].abs().double()
    share = size / size.sum(1, keepdim=True)
    weight = torch.cat([torch.zeros(features), graph.probabilities / graph.probabilities.sum()]).double()
    total = torch.zeros(features + errors + tokens).double()
    while float(weight.abs().sum()) > 0:  # one step down all edges; features alone have inputs of their own
        arrived = weight @ share
        total += arrived
        weight = torch.cat([arrived[:features], torch.zeros(len(graph.logits)).double()])
    found = influence(graph)
    torch.testing.assert_close(
        torch.cat([found.features, found.errors, found.tokens]), total.float(), atol=1e-6, rtol=1e-5
    )
    ends = float(found.errors.sum() + found.tokens.sum())
    assert ends == pytest.approx(1, abs=1e-5)  # all influence ends at tokens or errors
    assert found.replacement == pytest.approx(float(found.tokens.sum()) / ends)
    assert 0 < found.completeness < 1


@pytest.mark.parametrize("most", [1, 7, 40])
def test_a_cap_folds_what_it_drops_into_errors(graph, most):
    less, folded = capped(graph, most)
    assert len(less.features) == most
    torch.testing.assert_close(less.edges.sum(1), less.values, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(
        less.edges[:, less.sources[0] + less.sources[1] :], graph.edges[_rows(graph, less)][:, -_ends(graph) :]
    )
    size = influence(graph).features
    assert folded == pytest.approx(1 - float(size.topk(most).values.sum() / size.sum()), abs=1e-5)
    assert capped(graph, 10**6) == (graph, 0.0)


def _ends(graph):
    return graph.sources[2] + graph.sources[3]


def _rows(graph, less):
    known = {tuple(one): i for i, one in enumerate(graph.features.tolist())}
    rows = [known[tuple(one)] for one in less.features.tolist()]
    return torch.tensor([*rows, *range(len(graph.features), len(graph.edges))])


def test_pruning_keeps_the_largest_and_leaves_no_loose_ends(graph):
    found = prune(graph, nodes=0.8, edges=0.98)
    features = len(graph.features)
    assert 0 < int(found.features.sum()) < features
    rows = torch.cat([found.features, torch.ones(len(graph.logits), dtype=torch.bool)])
    assert not bool(found.edges[~rows].any())
    assert not bool(found.edges[:, :features][:, ~found.features].any())
    assert bool(found.edges[:features].any(1)[found.features].all())
    assert bool(found.edges[:, :features].any(0)[found.features].all())
    assert torch.equal(found.edges[:, features:].any(0), torch.cat([found.errors, found.tokens]))
    whole = prune(graph, nodes=1.0, edges=1.0)
    assert int(whole.features.sum()) >= int(found.features.sum())
    assert bool((found.edges <= whole.edges).all())
    tighter = prune(graph, nodes=0.5, edges=0.9)
    assert int(tighter.edges.sum()) < int(found.edges.sum())


def test_bad_requests_are_refused(graph):
    with pytest.raises(ConfigError, match="at least one feature"):
        capped(graph, 0)
    with pytest.raises(ConfigError, match="thresholds"):
        prune(graph, nodes=0.0)
    with pytest.raises(ConfigError, match="thresholds"):
        prune(graph, edges=1.5)


def test_a_graph_without_features_has_its_influence_in_errors_and_tokens(graph):
    silent = drawn("relu")
    silent = replace(silent, layers=tuple(replace(one, encoder_bias=one.encoder_bias - 100) for one in silent.layers))
    empty = attribution_graph(load_model(plain("llama"), device="cpu"), silent, asked(6))
    assert len(empty.features) == 0
    found = influence(empty)
    assert float(found.errors.sum() + found.tokens.sum()) == pytest.approx(1, abs=1e-5)
    assert int(prune(empty).edges.sum()) > 0
