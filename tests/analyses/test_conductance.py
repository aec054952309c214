import pytest
import torch

from interp.analyses.conductance import conductance
from interp.analyses.token_attribution import token_attribution
from interp.datasets.judging import requests
from interp.errors import ConfigError
from tests.judges import ids_of, tiny

TEXTS = [one.text for one in requests(4, seed=3)]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def made(request):
    return tiny(request.param)


def test_every_layer_sums_to_the_difference(made):
    judge = made[1]
    found = conductance(judge, judge.prompts(TEXTS), steps=256)
    whole = token_attribution(judge, judge.prompts(TEXTS))
    torch.testing.assert_close(found.score, whole.score)
    torch.testing.assert_close(found.baseline_score, whole.baseline_score)
    assert float(found.error.max()) < 0.02
    assert len(found.to_frame()) == 2 * int(judge.prompts(TEXTS).mask.sum())


def test_the_last_layer_s_share_stands_where_the_verdict_is_read(made):
    """After the last layer nothing mixes positions any more: all of the difference is at the verdict."""
    judge = made[1]
    prompts = judge.prompts(TEXTS)
    found = conductance(judge, prompts, steps=128)
    at = prompts.columns("verdict")
    rows = torch.arange(len(TEXTS))
    torch.testing.assert_close(found.values[rows, 1, at], found.values[:, 1].nansum(1))


def test_shares_equal_autograd_on_the_plain_model(made):
    plain, judge = made
    found = conductance(judge, judge.prompts(TEXTS[:1]), steps=8, layers=[0])
    ids = ids_of(judge, TEXTS[0])
    table = plain.get_input_embeddings().weight.detach()
    full = table[ids[0]]
    start = full.clone()
    start[1 : 1 + len(TEXTS[0].split())] = table.mean(0)
    states, gradients = [], []
    layers = plain.model.layers if hasattr(plain, "model") else plain.transformer.h
    for step in range(9):
        kept = []
        handle = layers[0].register_forward_hook(lambda _, __, out, to=kept: to.append(out))
        logits = plain(inputs_embeds=(start + step / 8 * (full - start))[None].requires_grad_(True)).logits[0, -1]
        handle.remove()
        state = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
        (gradient,) = torch.autograd.grad(logits[judge.unsafe] - logits[judge.safe], state)
        states.append(state[0].detach())
        gradients.append(gradient[0])
    h, g = torch.stack(states), torch.stack(gradients)
    wanted = ((g[1:] + g[:-1]) / 2 * (h[1:] - h[:-1])).sum((0, 2))
    torch.testing.assert_close(found.values[0, 0], wanted, atol=1e-4, rtol=1e-3)


def test_steps_must_be_some(made):
    judge = made[1]
    with pytest.raises(ConfigError, match="at least 1"):
        conductance(judge, judge.prompts(TEXTS), steps=0)
