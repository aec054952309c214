"""Usage by hand, effects against whole graphs, tokens and contexts against their definitions."""

import numpy as np
import pytest
import torch

from interp.circuits.activity import Activity, feature_activity
from interp.circuits.answer_effects import answer_effects
from interp.circuits.checks import _total
from interp.circuits.feature_text import top_contexts, written_tokens
from interp.circuits.graph import attribution_graph
from interp.circuits.usage import feature_usage
from interp.errors import ConfigError, PromptError
from interp.models.load import load_model
from tests.circuits.test_attached import prompts_of
from tests.circuits.test_graph import KINDS, drawn
from tests.models.test_sweeps import made, plain


def test_frequency_counts_prompts():
    largest = np.zeros((20, 3), np.float32)
    largest[:8, 0] = np.arange(1, 9)
    largest[12:, 1] = 0.3
    largest[19, 2] = 5
    features = np.array([[0, 4], [1, 2], [1, 7]])
    activity = Activity(features, (8, 8), largest, np.zeros((20, 3), np.int32), largest, 1)
    groups = {"one": np.arange(10), "other": np.arange(10, 20)}
    found = feature_usage(activity, groups, effects=np.full((20, 3), 2.0, np.float32) * largest)
    np.testing.assert_allclose(found.frequency.value, [[0.8, 0, 0], [0, 0.8, 0.1]])
    assert 0.4 < found.frequency.low[0, 0] < 0.5
    np.testing.assert_allclose(found.mean.value[0, 0], 4.5)
    assert np.isnan(found.mean.value[0, 1])
    assert np.isnan(found.mean.low[1, 2])
    np.testing.assert_allclose(found.importance, [[3.6, 0, 0], [0, 0.24, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(found.influence.value, 2 * found.importance, rtol=1e-6)
    assert found.influence.low[0, 0] < 7.2 < found.influence.high[0, 0]
    assert found.prompts == (10, 10)
    assert found.names == ("L0_F4", "L1_F2", "L1_F7")
    assert found.ranked("other").tolist() == [2, 1, 0]
    assert len(found.to_frame()) == 6
    fewer = feature_usage(activity, groups, min_activation=0.5, min_frequency=0.2)
    assert fewer.names == ("L0_F4",)
    assert np.isnan(fewer.influence.value).all()
    with pytest.raises(PromptError, match="at least one prompt"):
        feature_usage(activity, {"none": np.arange(0)})


@pytest.mark.parametrize("form", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("kind", KINDS)
def test_effects_are_those_of_the_whole_graph(form, kind):
    """In float64 the difference of the graph's total effects on two logits."""
    model = load_model(plain(form), device="cpu", dtype=torch.float32)
    transcoders, prompts = drawn(kind), prompts_of()
    activity = feature_activity(model, transcoders, prompts, skip=0)
    for row in (0, 1):
        graph = attribution_graph(model, transcoders, prompts, row, logits=3, mass=1.0)
        first, second = graph.logits[:2].tolist()
        own = answer_effects(model, transcoders, prompts, activity, first, second)[row]
        total = _total(graph)
        wanted = np.zeros_like(own)
        for (layer, _, number), effect in zip(graph.features.tolist(), (total[0] - total[1]).tolist(), strict=True):
            wanted[activity.index([(layer, number)])] += effect
        np.testing.assert_allclose(own, wanted, atol=2e-4 * max(1, np.abs(wanted).max()))


def test_effects_leave_out_what_activity_leaves_out():
    model, transcoders, prompts = made("llama"), drawn("relu"), prompts_of()
    whole, later = (feature_activity(model, transcoders, prompts, skip=skip) for skip in (0, 1))
    one = answer_effects(model, transcoders, prompts, later, 5, 6)
    assert not one[later.largest == 0].any()
    assert np.abs(one - answer_effects(model, transcoders, prompts, later, 6, 5) * -1).max() < 1e-5
    with pytest.raises(ConfigError, match="two tokens"):
        answer_effects(model, transcoders, prompts, whole, 5, 5)
    with pytest.raises(PromptError, match="not of these"):
        answer_effects(model, transcoders, prompts.take([0]), whole, 5, 6)


@pytest.mark.parametrize("form", ["gpt2", "llama", "gemma2"])
def test_tokens_are_those_that_the_decoder_row_makes_likelier(form):
    model, transcoders = made(form), drawn("cross")
    (top, bottom), _ = written_tokens(model, transcoders, np.array([[1, 3], [2, 0]]), count=4)
    own = plain(form)
    norm = own.transformer.ln_f if form == "gpt2" else own.model.norm
    weight = norm.weight + (form == "gemma2")
    row = transcoders.layers[1].decoder[3].sum(0)
    logits = ((row - row.mean() * (form == "gpt2")) * weight) @ own.lm_head.weight.T
    logits = (logits - logits.mean()).detach()
    best = logits.topk(4)
    assert [int(word) for word, _ in top] == best.indices.tolist()
    np.testing.assert_allclose([value for _, value in top], best.values, rtol=1e-4)
    assert int(bottom[0][0]) == int(logits.argmin())


def test_contexts_are_the_prompts_with_the_largest_activations():
    model, transcoders, prompts = made("llama"), drawn("relu"), prompts_of()
    activity = feature_activity(model, transcoders, prompts)
    index = int(activity.largest.min(0).argmax())
    found = top_contexts(activity, prompts, None, index, count=3)
    assert [one.row for one in found] == np.argsort(-activity.largest[:, index])[:3].tolist()
    assert found[0].activation == activity.largest[:, index].max()
    assert found[0].tokens[found[0].at] == str(int(prompts.tokens[found[0].row, found[0].at]))
    assert top_contexts(activity, prompts, None, index, rows=[2])[0].row == 2
