"""Edge attribution and edge patching against a plain loop over edges, and what integrated gradients must sum to."""

import pytest
import torch

from interp.analyses.edge_attribution import edge_attribution
from interp.errors import ConfigError, ModelError
from interp.models.load import load_model
from interp.models.sweeps import Readout
from interp.models.sweeps.circuits import EdgeRuns
from interp.models.sweeps.edges import Graph, written
from interp.models.sweeps.gradients import climbed
from interp.models.sweeps.runs import Runs
from tests import naive_edges
from tests.models.test_sweeps import both_sides, neox, plain

FORMS = ("gpt2", "llama", "gemma2")


def known(form):
    """The plain model, TransformerLens' of it, pairs, and each pair's two runs edge by edge."""
    model = load_model(plain(form), device="cpu")
    return plain(form).eval(), model, both_sides(reads=False)


def difference(pairs, number, logits):
    last = int(pairs.clean.lengths[number]) - 1
    return logits[last, pairs.clean.answers[number, 0]] - logits[last, pairs.corrupted.answers[number, 0]]


def tokens_of(side, number):
    return side.tokens[number, : int(side.lengths[number])]


@pytest.mark.parametrize("form", FORMS)
def test_estimates_equal_the_gradient_of_a_plain_loop_by_each_edge(form):
    """d metric / d share at 0, where a share of the edge is the other run's, pair by pair."""
    own, model, pairs = known(form)
    own = own.requires_grad_(False)
    found = edge_attribution(model, pairs)
    sources, targets = naive_edges.parts_of(own)
    assert set(found.sources) == set(sources)
    assert list(dict.fromkeys(found.targets)) == targets
    for number in (0, 3):
        source = naive_edges.run(own, tokens_of(pairs.clean, number))[1]
        shares = {edge: torch.zeros((), requires_grad=True) for edge in zip(found.sources, found.targets, strict=True)}
        logits, _ = naive_edges.run(own, tokens_of(pairs.corrupted, number), source, shares)
        slopes = torch.autograd.grad(difference(pairs, number, logits), list(shares.values()))
        torch.testing.assert_close(found.values[number], torch.stack(slopes), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_replaced_edges_equal_a_plain_loop(form):
    own, model, pairs = known(form)
    readout = Readout.of(pairs, ["logit_diff"])
    base, other = (Runs.of(model, side, memory=1 << 30) for side in (pairs.corrupted, pairs.clean))
    graph = Graph.of(base.net)
    edges = [(graph.sources[s], graph.targets[t]) for s, t in graph.edges.tolist()]
    generator = torch.Generator().manual_seed(0)
    replaced = torch.rand(6, len(edges), generator=generator) < torch.tensor([0.02, 0.2, 0.5, 0.9, 1.0, 0.0])[:, None]
    late = torch.tensor([target.startswith("L2") or target == "logits" for _, target in edges])
    replaced = torch.cat([replaced, (replaced[2] & late)[None], torch.eye(len(edges), dtype=torch.bool)[::37]])
    with torch.no_grad():
        writes = written(other.net, climbed(other.net, other.entry), other.entry)
        runs = EdgeRuns.of(base, readout, torch.arange(5), writes)
        found = {memory: runs.scores(replaced, memory=memory)[..., 0] for memory in (1 << 30, 1)}
        for number in (0, 3):
            source = naive_edges.run(own, tokens_of(pairs.clean, number))[1]
            for place, mask in enumerate(replaced):
                chosen = {edge: 1.0 for edge, on in zip(edges, mask.tolist(), strict=True) if on}
                logits, _ = naive_edges.run(own, tokens_of(pairs.corrupted, number), source, chosen)
                wanted = difference(pairs, number, logits)
                for values in found.values():
                    torch.testing.assert_close(values[number, place], wanted, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_integrated_over_inputs_the_embedding_edges_sum_to_the_difference(form, direction):
    _, model, pairs = known(form)
    found = edge_attribution(model, pairs, integrate="inputs", direction=direction)
    differ = torch.arange(5) != 1
    assert float(found.error[differ].max()) < 0.01
    assert bool((found.values[1] == 0).all())
    assert bool((found.steps >= 8).all())


@pytest.mark.parametrize("form", FORMS)
def test_integrated_over_activations_each_cut_sums_to_the_patch_of_the_cut(form):
    """All edges out of one layer's heads together are those heads' patch; so for an MLP and for the embedding."""
    _, model, pairs = known(form)
    found = edge_attribution(model, pairs, integrate="activations", steps=48)
    base, other = (Runs.of(model, side, memory=1 << 30) for side in (pairs.corrupted, pairs.clean))
    cuts = [["embed"], *[[f"L{layer}H{head}" for head in range(4)] for layer in range(3)], ["mlp0"], ["mlp2"]]
    out = torch.stack([torch.tensor([source in cut for source in found.sources]) for cut in cuts])
    with torch.no_grad():
        writes = written(other.net, climbed(other.net, other.entry), other.entry)
        runs = EdgeRuns.of(base, Readout.of(pairs, ["logit_diff"]), torch.arange(5), writes)
        moved = runs.scores(out, memory=1 << 30)[..., 0] - found.corrupted[:, None]
    for number, cut in enumerate(out):
        torch.testing.assert_close(found.values[:, cut].sum(1), moved[:, number], atol=5e-4, rtol=5e-3)


@pytest.mark.parametrize("integrate", [None, "inputs", "activations"])
def test_the_budget_changes_nothing(integrate):
    _, model, pairs = known("llama")
    whole, tiled = (edge_attribution(model, pairs, integrate=integrate, memory=m) for m in (1 << 30, 1))
    torch.testing.assert_close(whole.values, tiled.values, atol=1e-6, rtol=1e-5)


def test_bad_requests_are_refused():
    _, model, pairs = known("gpt2")
    with pytest.raises(ConfigError, match="no gradient"):
        edge_attribution(model, pairs, metric="rank")
    with pytest.raises(ConfigError, match="steps"):
        edge_attribution(model, pairs, steps=0)
    with pytest.raises(ModelError, match="cannot be told apart"):
        edge_attribution(load_model(neox(), device="cpu"), pairs)
