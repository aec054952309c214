import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GemmaConfig

from interp.models.load import load_model
from interp.models.readout import LinearReadout
from interp.models.run import capture
from interp.sites import Site
from tests.conftest import SIZES
from tests.naive import Naive

CLOSE = dict(atol=1e-5, rtol=1e-5)
LAST = Site("resid_post", 2)


@pytest.fixture(scope="module", params=["raw", "processed"])
def weights(request, hf, model):
    return model if request.param == "raw" else load_model(hf, device="cpu", weights="processed")


def test_with_the_true_scale_the_logits_are_the_models_own(hf, weights, ragged):
    ids, prompts = ragged
    readout = LinearReadout.of(weights)
    stream, every = capture(weights, prompts, [LAST])[LAST], torch.arange(23)
    for i, row in enumerate(ids):
        x = stream[i, : len(row)]
        wanted = Naive(hf).logits(row)
        whole = readout.logits(x / readout.scale(x)[:, None]) + readout.constants(every)
        one_by_one = (x @ readout.directions(every).T) / readout.scale(x)[:, None] + readout.constants(every)
        # Processed weights shift all logits of a column alike.
        for found in (whole, one_by_one):
            torch.testing.assert_close(found.log_softmax(-1), wanted.log_softmax(-1), **CLOSE)
        mean = x @ readout.mean_direction() / readout.scale(x) + readout.mean_constant()
        torch.testing.assert_close(mean, whole.mean(-1), **CLOSE)
    torch.testing.assert_close(readout.directions(torch.tensor([[4, 7]]))[0, 1], readout.directions(every)[7])
    torch.testing.assert_close(readout.constants(torch.tensor(4)), readout.constants(every)[4])


def test_raw_weights_give_the_logits_and_the_scale_to_the_number(hf, model, ragged):
    ids, _ = ragged
    readout, naive = LinearReadout.of(model), Naive(hf)
    norm = hf.transformer.ln_f if naive.gpt2 else hf.model.norm
    for row in ids:
        x = naive.read(row, "resid_post", 2)
        logits = readout.logits(x / readout.scale(x)[:, None]) + readout.constants(torch.arange(23))
        torch.testing.assert_close(logits, naive.logits(row), **CLOSE)
        far = x.double().numpy()
        square = far.var(-1) + norm.eps if naive.gpt2 else (far**2).mean(-1) + norm.variance_epsilon
        np.testing.assert_allclose(readout.scale(x), np.sqrt(square), **CLOSE)
    assert readout.centred == naive.gpt2


def test_the_covariance_is_that_of_the_directions_over_the_vocabulary(weights):
    readout = LinearReadout.of(weights)
    ways = readout.directions(torch.arange(23)).double().numpy()
    np.testing.assert_allclose(readout.covariance(), np.cov(ways.T, ddof=0), atol=1e-6)
    v = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    variance = ((v @ readout.covariance()) * v).sum(-1)
    np.testing.assert_allclose(variance, readout.logits(v).double().numpy().var(-1), rtol=1e-4)


def test_norms_that_multiply_by_one_and_the_weight(ragged):
    """Gemma's do."""
    sizes = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, head_dim=6)
    config = GemmaConfig(num_key_value_heads=2, max_position_embeddings=16, **sizes, **SIZES)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    ids, prompts = ragged
    for kind in ("raw", "processed"):
        gemma = load_model(hf, device="cpu", weights=kind)
        readout = LinearReadout.of(gemma)
        x = capture(gemma, prompts, [LAST])[LAST][1, : len(ids[1])]
        found = readout.logits(x / readout.scale(x)[:, None]) + readout.constants(torch.arange(23))
        torch.testing.assert_close(found.log_softmax(-1), Naive(hf).logits(ids[1]).log_softmax(-1), **CLOSE)
