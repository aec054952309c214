import numpy as np
import pytest
import torch

from interp.analyses.token_attribution import TOLERANCE, token_attribution
from interp.datasets.judging import ANSWERS, TEMPLATE, judging_tokenizer, requests
from interp.errors import ConfigError
from interp.models.judge import Judge
from interp.models.load import load_model
from interp.models.small import Architecture, build_small

TEXTS = [one.text for one in requests(5, seed=3)]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def both(request):
    """A plain model with weights large enough for curvature, and the judge on it."""
    tokenizer = judging_tokenizer()
    shape = Architecture(form=request.param, width=24, mlp=32)
    plain = build_small(shape, len(tokenizer), 96, seed=1, special=(1, 2, 0)).eval()
    with torch.no_grad():
        for weight in plain.parameters():
            weight.mul_(3.0 if weight.ndim > 1 else 1.0)
    model = load_model(plain, tokenizer, device="cpu")
    return plain, Judge.of(model, template=TEMPLATE, safe=f" {ANSWERS[0]}", unsafe=f" {ANSWERS[1]}")


def by_hand(plain, judge, text, method, baseline, steps):
    """Plain Hugging Face, one prompt at a time, through `inputs_embeds`."""
    ids = judge.model.tokenizer(TEMPLATE.format(prompt=text), return_tensors="pt").input_ids[0]
    table = plain.get_input_embeddings().weight.detach()
    inside = torch.zeros(len(ids), dtype=torch.bool)
    inside[1 : 1 + len(text.split())] = True
    vector = {"zero": torch.zeros(24), "mean": table.mean(0)}.get(baseline)
    vector = table[baseline] if vector is None else vector
    full = table[ids]
    start = torch.where(inside[:, None], vector, full)

    def odds(embedded):
        logits = plain(inputs_embeds=embedded[None]).logits[0, -1]
        return logits[judge.unsafe] - logits[judge.safe]

    shares = torch.zeros(len(ids))
    if method == "leave one out":
        for column in inside.nonzero().flatten():
            left = full.clone()
            left[column] = start[column]
            with torch.no_grad():
                shares[column] = odds(full) - odds(left)
    else:
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        points = [(1.0, 1.0)] if method == "gradient x input" else zip((nodes + 1) / 2, weights / 2, strict=True)
        for alpha, weight in points:
            entry = (start + alpha * (full - start)).requires_grad_(True)
            (gradient,) = torch.autograd.grad(odds(entry), entry)
            shares += weight * (gradient * (full - start)).sum(-1)
    with torch.no_grad():
        return shares[inside], odds(full), odds(start)


@pytest.mark.parametrize("baseline", ["zero", "mean", 0])
@pytest.mark.parametrize("method", ["integrated gradients", "gradient x input", "leave one out"])
def test_shares_equal_the_naive_loop(both, method, baseline):
    plain, judge = both
    prompts = judge.prompts(TEXTS)
    found = token_attribution(judge, prompts, method=method, baseline=baseline, steps=12, most_steps=12)
    for i, text in enumerate(TEXTS):
        wanted, score, empty = by_hand(plain, judge, text, method, baseline, 12)
        own = found.values[i][~found.values[i].isnan()]
        torch.testing.assert_close(own, wanted, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(found.score[i], score, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.baseline_score[i], empty, atol=1e-5, rtol=1e-5)
    assert len(found.to_frame()) == sum(len(text.split()) for text in TEXTS)


def test_small_batches_give_the_same(both):
    judge = both[1]
    prompts = judge.prompts(TEXTS)
    one, other = (token_attribution(judge, prompts, steps=4, most_steps=4, memory=m) for m in (1, 1 << 30))
    torch.testing.assert_close(one.values, other.values, atol=1e-5, rtol=1e-4, equal_nan=True)


def test_steps_rise_until_the_shares_add_up(both):
    judge = both[1]
    prompts = judge.prompts(TEXTS)
    few = token_attribution(judge, prompts, steps=1, most_steps=1)
    assert (few.steps == 1).all()
    assert torch.equal(few.flagged, ~(few.error <= TOLERANCE))
    assert few.flagged.any()
    more = token_attribution(judge, prompts, steps=1, most_steps=512)
    assert not more.flagged.any()
    assert (more.steps[few.flagged] > 1).all()
    assert (more.steps[~few.flagged] == 1).all()


def test_no_trace_is_left(both):
    judge = both[1]
    before = {name: p.detach().clone() for name, p in judge.model.named_parameters()}
    judge.model.train()
    state = torch.get_rng_state()
    token_attribution(judge, judge.prompts(TEXTS[:1]), steps=2, most_steps=2)
    assert judge.model.training
    judge.model.eval()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in judge.model.named_parameters())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(steps=0), "at least 1"),
        (dict(steps=8, most_steps=4), "at most most_steps"),
        (dict(baseline=9999), "not in the vocabulary"),
    ],
)
def test_what_does_not_fit_is_said(both, options, said):
    judge = both[1]
    with pytest.raises(ConfigError, match=said):
        token_attribution(judge, judge.prompts(TEXTS[:1]), **options)
