"""A model with known features and edges: its graphs show these edges, and what is called harm-specific is no trap."""

import numpy as np
import pytest
import torch

from interp.circuits.activity import feature_activity
from interp.circuits.answer_effects import answer_effects
from interp.circuits.feature_causal import causal_tests, feature_likeness, matched_sets
from interp.circuits.feature_contrast import benchmark_contrasts
from interp.circuits.graph import attribution_graph
from interp.circuits.triples import triples_of
from interp.errors import ConfigError
from interp.models.load import load_model
from interp.models.run import capture
from interp.sites import Site
from tests.planted import (
    COMPLY,
    EDGES,
    HARMFUL,
    NAMES,
    NO,
    REFUSE,
    TRAPS,
    YES,
    planted_model,
    planted_prompts,
)

SMALLEST = 0.1
"""Edges of this size count as found; planted ones are of about 1, noise of about .01."""


@pytest.fixture(scope="module")
def planted():
    made, prompts = planted_model(), planted_prompts()
    model = load_model(made.model, device="cpu")
    return model, made.transcoders, prompts, feature_activity(model, made.transcoders, prompts)


def test_it_refuses_what_is_harmful_and_nothing_else(planted):
    model, _, prompts, _ = planted
    logits = capture(model, prompts, ["logits"])[Site("logits")][:, 0]
    assert (logits.argmax(-1) == prompts.answers[:, 0]).all()


def test_edges_of_graphs_are_those_that_were_planted(planted):
    model, transcoders, prompts, _ = planted
    right, told, there = 0, 0, 0
    for row in range(0, 60, 4):  # of all kinds in turn
        graph = attribution_graph(model, transcoders, prompts, row, logits=2, mass=1.0)
        nodes = [(layer, number) for layer, _, number in graph.features.tolist()]
        targets = [*nodes, *(NAMES[int(token)] for token in graph.logits)]
        columns = [*graph.features[:, 1].tolist(), *[graph.read] * 2]
        weights = graph.edges[:, : len(nodes)].numpy()
        found = {
            (source, target, nodes[source], targets[target]): np.sign(weights[target, source])
            for target, source in np.argwhere(np.abs(weights) >= SMALLEST).tolist()
        }
        # What is wired within one token has an edge where both are active at it; attention alone carries further.
        wired = {
            (source, target, nodes[source], targets[target]): EDGES[nodes[source], targets[target]]
            for target in range(len(targets))
            for source in range(len(nodes))
            if (nodes[source], targets[target]) in EDGES
            and (targets[target] in (HARMFUL, *TRAPS) or columns[source] == columns[target])
        }
        right += sum(found.get(edge) == sign for edge, sign in wired.items())
        told, there = told + len(found), there + len(wired)
    assert there > 100
    assert right / told >= 0.95, "precision"
    assert right / there >= 0.95, "recall"


def test_no_lexical_trap_is_called_harm_specific(planted):
    _, _, prompts, activity = planted
    triples = triples_of(prompts)
    found = benchmark_contrasts(activity, triples)["planted"]
    harmful = activity.largest[triples.prompts("harmful")] > 0
    for trap in TRAPS:
        assert harmful[:, activity.index([trap])].any(), "every trap is active on harmful prompts"
    specific = {tuple(one) for one in activity.features[found.harm_specific].tolist()}
    assert specific == {HARMFUL, NO}
    assert {tuple(one) for one in activity.features[found.confirmed].tolist()} == {HARMFUL, NO, YES}
    assert "specific, higher on harm" in found.sentence(int(activity.index([HARMFUL])[0]))


def test_without_a_least_difference_a_trap_slips_through(planted):
    """An excuse makes the stream a little longer and all that reads it a little weaker, in every pair."""
    _, _, prompts, activity = planted
    found = benchmark_contrasts(activity, triples_of(prompts), least=0.0)["planted"]
    assert {tuple(one) for one in activity.features[found.harm_specific].tolist()} > {HARMFUL, NO}


def test_effects_have_the_sign_of_the_wiring(planted):
    model, transcoders, prompts, _ = planted
    some = prompts.take(triples_of(prompts).prompts("harmful", None, "causal"))
    activity = feature_activity(model, transcoders, some)
    effects = answer_effects(model, transcoders, some, activity, REFUSE, COMPLY)
    for feature, sign in ((HARMFUL, 1), (NO, 1)):
        assert (sign * effects[:, activity.index([feature])[0]] > 0).all()
    no = effects[:, activity.index([NO])[0]]
    np.testing.assert_allclose(no, 1.6 * activity.answer[:, activity.index([NO])[0]], rtol=0.15)


def test_ablating_what_is_specific_changes_the_answer(planted):
    model, transcoders, prompts, activity = planted
    triples = triples_of(prompts)
    found = causal_tests(
        model, transcoders, prompts, activity, triples, activity.index([HARMFUL, NO]), REFUSE, COMPLY, sets=24
    )
    ablation, boost, direction = (found[way] for way in ("ablation", "boost", "direction"))
    for one in (ablation, boost):
        assert one.p == 1 / 25
        assert one.claim().verdict == "supported"
    flips, others = ablation.flips()
    assert flips.value == 1
    assert others.value < 0.1
    assert (ablation.said_base == 1).all()
    assert (ablation.said_own == -1).all()
    assert ablation.effect().value > 3
    assert abs(ablation.control().value) < 1
    assert "L1_F0, L2_F0 on harmful prompts lowers" in ablation.sentence()
    assert direction.effect().value > 1
    idle = activity.index([(1, 5), (2, 5)])
    nothing = causal_tests(model, transcoders, prompts, activity, triples, idle, REFUSE, COMPLY, sets=24)
    assert nothing["ablation"].claim().verdict == "not supported"


def test_the_ablation_is_the_models_own(planted):
    """By hand in the Hugging Face model: the unit's column of the down projection is zero."""
    model, transcoders, prompts, activity = planted
    triples = triples_of(prompts)
    found = causal_tests(
        model, transcoders, prompts, activity, triples, activity.index([HARMFUL]), REFUSE, COMPLY, sets=2, near=2
    )["ablation"]
    own = planted_model().model
    with torch.no_grad():
        own.model.layers[1].mlp.down_proj.weight[:, HARMFUL[1]] = 0
        rows = triples.prompts("harmful", None, "causal")
        logits = own(prompts.tokens[rows]).logits[:, -1]
    assert found.claim().verdict == "undecided", "two sets are too few to tell"
    np.testing.assert_allclose(found.own, logits[:, REFUSE] - logits[:, COMPLY], atol=1e-4)


def test_matched_sets_are_of_the_same_layers_and_alike(planted):
    _, transcoders, prompts, activity = planted
    rows = triples_of(prompts).prompts("harmful")
    likeness = feature_likeness(activity, transcoders, rows)
    chosen = activity.index([HARMFUL, NO]).tolist()
    for one in matched_sets(activity, likeness, chosen, sets=20):
        assert activity.features[list(one), 0].tolist() == [1, 2]
        assert not set(one) & set(chosen)
    with pytest.raises(ConfigError, match="none to match them"):
        matched_sets(activity, likeness, np.flatnonzero(activity.features[:, 0] == 2).tolist())
