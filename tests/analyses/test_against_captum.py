"""Integrated gradients beside an independent implementation (captum, Kokhlikyan et al., arXiv 2009.07896)."""

import warnings

import pytest
import torch

from interp.analyses.token_attribution import token_attribution
from interp.datasets.judging import requests
from tests.judges import ids_of, tiny

TEXTS = [one.text for one in requests(5, seed=3)]


@pytest.mark.parametrize("form", ["llama", "gpt2"])
@pytest.mark.parametrize("baseline", ["zero", "mean", 0])
def test_integrated_gradients_equal_captum_s(form, baseline):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from captum.attr import IntegratedGradients
    plain, judge = tiny(form)
    found = token_attribution(judge, judge.prompts(TEXTS), baseline=baseline, steps=32, most_steps=32)
    table = plain.get_input_embeddings().weight.detach()
    vector = {"zero": torch.zeros(24), "mean": table.mean(0)}.get(baseline)
    vector = table[baseline] if vector is None else vector

    def odds(embedded):
        logits = plain(inputs_embeds=embedded).logits[:, -1]
        return logits[:, judge.unsafe] - logits[:, judge.safe]

    for i, text in enumerate(TEXTS):
        full = table[ids_of(judge, text)]
        inside = slice(1, 1 + len(text.split()))
        start = full.clone()
        start[:, inside] = vector
        wanted = IntegratedGradients(odds).attribute(full, start, n_steps=32, method="gausslegendre").sum(-1)[0]
        torch.testing.assert_close(found.values[i, inside], wanted[inside].float(), atol=1e-5, rtol=1e-5)
