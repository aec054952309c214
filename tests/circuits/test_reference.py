"""Edges against a committed adjacency that was made in float64 from weights alone, without gradients."""

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from interp.circuits.graph import attribution_graph
from interp.circuits.transcoders import Transcoder, Transcoders
from interp.models.load import load_model
from interp.prompts import Prompts
from tests.circuits import reference

FORMS = {"llama": (LlamaConfig, LlamaForCausalLM), "gemma2": (Gemma2Config, Gemma2ForCausalLM)}


def model(form, config, weights):
    settings, kind = FORMS[form]
    found = kind(settings(**config))
    lacking, strange = found.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
    assert not strange
    assert set(lacking) <= {"lm_head.weight"}  # Gemma's is the embedding
    return found.eval()


def made(form, arrays):
    def part(layer, name):
        found = arrays.get(f"{layer}.{name}")
        return None if found is None else torch.from_numpy(found)

    layers = [
        Transcoder(
            part(at, "encoder"), part(at, "encoder_bias"), part(at, "decoder")[:, None], part(at, "decoder_bias"),
            part(at, "threshold"), skip=part(at, "skip"),
        )
        for at in range(reference.LAYERS)
    ]  # fmt: skip
    return Transcoders(tuple(layers), reference.READS[form])


@pytest.mark.parametrize("form", reference.CONFIGS)
def test_edges_equal_the_committed_adjacency(form):
    config, weights, transcoders, wanted, tokens = reference.read(form)
    plain = model(form, config, weights)
    with torch.no_grad():
        logits = plain(torch.from_numpy(tokens)[None]).logits[0, -1]
    np.testing.assert_allclose(logits, wanted["all_logits"], atol=1e-5)
    prompts = Prompts.from_tokens(torch.from_numpy(tokens)[None])
    graph = attribution_graph(load_model(plain, device="cpu", weights="raw"), made(form, transcoders), prompts)
    assert graph.features.tolist() == wanted["features"].tolist()
    assert graph.logits.tolist() == wanted["logits"].tolist()
    for name in ("activations", "values", "edges"):
        np.testing.assert_allclose(getattr(graph, name), wanted[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("form", reference.CONFIGS)
def test_the_script_still_makes_what_is_committed(form):
    config, weights, transcoders, wanted, tokens = reference.read(form)
    assert config == reference.CONFIGS[form]
    found = reference.adjacency(form, weights, transcoders, tokens)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(wanted["edges"].sum(1), wanted["values"], rtol=0, atol=1e-12)
    assert 20 < len(wanted["features"]) < reference.LAYERS * reference.COLUMNS * reference.SIZE
    assert (np.abs(wanted["edges"]) > 1e-3).mean() > 0.1
