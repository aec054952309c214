import torch

from interp.analyses.rollout import attention_rollout
from interp.datasets.judging import requests
from interp.models.run import capture
from tests.judges import ids_of, tiny

TEXTS = [one.text for one in requests(5, seed=8)]


def test_rollout_is_the_product_of_mixed_patterns():
    plain, judge = tiny()
    plain.set_attn_implementation("eager")
    prompts = judge.prompts(TEXTS)
    found = attention_rollout(capture(judge.model, prompts, ["pattern"]), position="verdict")
    for i, text in enumerate(TEXTS):
        with torch.no_grad():
            patterns = plain(ids_of(judge, text), output_attentions=True).attentions
        n = int(prompts.lengths[i])
        flow = torch.eye(n)
        for pattern in patterns:
            flow = (pattern[0].mean(0) + torch.eye(n)) / 2 @ flow
        torch.testing.assert_close(found.rollout[i, :n], flow[-1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.last[i, :n], patterns[-1][0].mean(0)[-1], atol=1e-5, rtol=1e-4)
        assert found.rollout[i, n:].isnan().all()
    torch.testing.assert_close(found.rollout.nansum(1), torch.ones(5))
    assert len(found.to_frame()) == int(prompts.mask.sum())
