"""A graph's own check: edges against runs upwards, changes against plain runs, predictions against both."""

from dataclasses import replace

import pytest
import torch

from interp.circuits.checks import FACTORS, check_graph
from interp.circuits.graph import attribution_graph
from interp.errors import ConfigError
from interp.models.edits import Add, Edit
from interp.models.load import load_model
from interp.models.run import capture, edit
from interp.sites import Site
from tests.circuits.test_graph import KINDS, asked, drawn
from tests.models.test_sweeps import plain


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["gpt2", "llama", "gemma2"])
def test_edges_are_what_happens_when_all_else_is_held(form, kind):
    model, transcoders, prompts = load_model(plain(form), device="cpu"), drawn(kind), asked()
    graph = attribution_graph(model, transcoders, prompts)
    found = check_graph(model, transcoders, prompts, graph, sample=200)
    assert len(found.features) == min(200, len(graph.features))
    assert float(found.frozen_error.max()) < 1e-5
    wrong = replace(graph, edges=graph.edges * 1.01)
    assert float(check_graph(model, transcoders, prompts, wrong, sample=200).frozen_error.max()) > 1e-3


@pytest.mark.parametrize("form", ["llama", "gemma2"])
def test_what_really_happens_is_a_plain_run_with_the_feature_off(form):
    model, transcoders, prompts = load_model(plain(form), device="cpu"), drawn("cross"), asked()
    graph = attribution_graph(model, transcoders, prompts)
    found = check_graph(model, transcoders, prompts, graph, sample=3)
    cap = getattr(model.original_model.config, "final_logit_softcapping", None)

    def centred(logits):
        raw = logits[0, 0] if not cap else cap * torch.atanh(logits[0, 0] / cap)
        return (raw - raw.mean())[graph.logits]

    before = centred(capture(model, prompts, ["logits"])["logits"])
    for row, number in enumerate(found.features.tolist()):
        layer, column, feature = graph.features[number].tolist()
        for place, factor in enumerate(FACTORS):
            size = (factor - 1) * graph.activations[number]
            edits = [
                Edit(Site("mlp_out", layer + up), Add(size * vector), at=column)
                for up, vector in enumerate(transcoders.layers[layer].decoder[feature])
            ]
            after = centred(edit(model, prompts, edits, ["logits"])["logits"])
            torch.testing.assert_close(found.actual[row, place], after - before, atol=2e-5, rtol=1e-4)


def test_predictions_hold_where_the_model_is_the_transcoders_and_nothing_else_bends():
    """Features so small beside the stream that no pattern, scale or activation turns: predicted is actual."""
    own = plain("llama")
    with torch.no_grad():
        own.model.embed_tokens.weight.mul_(30)
    model, prompts = load_model(own, device="cpu"), asked()
    small = drawn("relu")
    layers = tuple(
        replace(one, encoder=one.encoder * 0, decoder=one.decoder * 1e-3, encoder_bias=one.encoder_bias.abs())
        for one in small.layers
    )
    transcoders = replace(small, layers=layers)
    graph = attribution_graph(model, transcoders, prompts)
    found = check_graph(model, transcoders, prompts, graph, sample=40)
    assert found.predicted.shape == found.actual.shape == (40, 2, len(graph.logits))
    agreement = found.agreement()
    assert agreement["rank correlation"].value > 0.5
    assert agreement["relative error"].low < agreement["relative error"].high


def test_a_check_of_another_prompt_is_refused():
    model, transcoders = load_model(plain("llama"), device="cpu"), drawn("relu")
    graph = attribution_graph(model, transcoders, asked(9))
    with pytest.raises(ConfigError, match="another prompt"):
        check_graph(model, transcoders, asked(7), graph)
    with pytest.raises(ConfigError, match="at least one"):
        check_graph(model, transcoders, asked(9), graph, sample=0)
    with pytest.raises(ConfigError, match="do not fit 3 layers"):
        attribution_graph(model, replace(transcoders, layers=transcoders.layers[2:]), asked(9))
