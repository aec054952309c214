import numpy as np
import pytest
import torch

from interp.errors import PromptError
from interp.models.load import load_model
from interp.workflows.direct_effect import direct_effect
from tests.naive import Naive
from tests.test_twins import NEUTRAL, PLACES, put, twins_of

END = 5


@pytest.mark.parametrize("split", ["layer", "head", "neuron"])
def test_the_parts_sum_to_the_change_of_the_end_s_logit(hf, model, split):
    ids, twins = twins_of("left", groups=[0, 0, 1, 1])
    found = direct_effect(model, twins, END, split=split, seed=2)
    naive, drawn = Naive(hf), twins.partners(2)[1]

    def end(row, place):
        logits = naive.logits(row)[place].double()
        return float(logits[END] - logits.mean())

    for p, (row, place) in enumerate(zip(ids, PLACES, strict=True)):
        neutral, another = (put(row, place, NEUTRAL[(drawn[p] + more) % 4]) for more in (0, 1))
        sums = [float(part[p].double().sum()) for part in (found.values, found.null)]
        wanted = [end(row, place) - end(neutral, place), end(neutral, place) - end(another, place)]
        np.testing.assert_allclose(sums, wanted, atol=2e-5, rtol=1e-4)
    assert len(set(found.components)) == len(found.components) == found.values.shape[1]
    assert {"layer": "L0 attn", "head": "L2H3", "neuron": "L1N7"}[split] in found.components
    np.testing.assert_allclose(found.values[:, found.components.index("final bias")], 0, atol=1e-6)
    assert found.groups.tolist() == [0, 0, 1, 1]
    assert len(found.to_frame()) == 4 * len(found.components)


def test_the_embedding_s_part_is_that_of_the_two_tokens(hf, model):
    """Each under its own norm's scale: with and without the token."""
    ids, twins = twins_of()
    found = direct_effect(model, twins, END, split="layer")
    naive, drawn = Naive(hf), twins.partners(0)[1]
    unembedding = hf.get_output_embeddings().weight.detach()
    way = unembedding[END] - unembedding.mean(0)
    norm = hf.transformer.ln_f if naive.gpt2 else hf.model.norm
    shares = []
    for row in (ids[1], put(ids[1], PLACES[1], NEUTRAL[drawn[1]])):
        last, first = (naive.read(row, *site)[PLACES[1]] for site in (("resid_post", 2), ("resid_pre", 0)))
        if naive.gpt2:
            last, first = last - last.mean(), first - first.mean()
        scale = (last.pow(2).mean() + (norm.eps if naive.gpt2 else norm.variance_epsilon)).sqrt()
        shares.append(float((first / scale * norm.weight.detach()) @ way))
    own = float(found.values[1, found.components.index("embed")])
    np.testing.assert_allclose(own, shares[0] - shares[1], atol=1e-5, rtol=1e-4)


def test_processed_weights_have_the_same_sum(hf, model):
    twins = twins_of()[1]
    processed = load_model(hf, device="cpu", weights="processed")
    sums = [direct_effect(one, twins, END).values.sum(1) for one in (model, processed)]
    torch.testing.assert_close(*sums, atol=1e-4, rtol=1e-4)


def test_a_prompt_beyond_the_context_is_refused(model):
    with pytest.raises(PromptError, match="context is 16"):
        direct_effect(model, twins_of(lengths=(17,), places=(2,))[1], END)
