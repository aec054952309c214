import pytest
import torch

from interp.analyses.logit_lens import logit_lens
from interp.errors import ConfigError
from interp.models.load import load_model
from interp.models.run import capture
from interp.prompts import Prompts
from tests.conftest import tiny
from tests.known import known_model, known_pairs
from tests.naive import Naive

SITES = ["resid_pre", "resid_post"]


def lens_logits(hf, stream):
    """The lens by hand: the plain model's own final norm and head."""
    with torch.no_grad():
        norm = hf.transformer.ln_f if hasattr(hf, "transformer") else hf.model.norm
        return hf.lm_head(norm(stream))


def answered(prompts, answers):
    return Prompts.from_tokens(prompts.tokens, prompts.mask, answers=torch.tensor(answers))


@pytest.mark.parametrize("memory", [1, 1 << 30])
def test_lens_equals_the_naive_loop(hf, model, ragged, memory):
    ids, prompts = ragged
    answers = [3, 4, 5, 6]
    prompts = answered(prompts, answers)
    lens = logit_lens(capture(model, prompts, SITES), model, memory=memory)
    naive = Naive(hf)
    for p, row in enumerate(ids):
        streams = [naive.read(row, "resid_pre", layer)[-1] for layer in range(3)] + [
            naive.read(row, "resid_post", 2)[-1]
        ]
        final = naive.logits(row)[-1].log_softmax(-1)
        ranks = []
        for depth, stream in enumerate(streams):
            logits = lens_logits(hf, stream)
            log_probs = logits.log_softmax(-1)
            where = (p, depth, 0)
            rank = int((logits >= logits[answers[p]]).sum()) - 1
            ranks.append(rank)
            kl = torch.nn.functional.kl_div(log_probs, final, reduction="sum", log_target=True)
            entropy = -(log_probs.exp() * log_probs).sum()
            torch.testing.assert_close(lens.log_prob[where], log_probs[answers[p]], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(lens.entropy[where], entropy, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(lens.kl[where], kl, atol=1e-5, rtol=1e-5)
            assert int(lens.rank[where]) == rank
            top = log_probs.topk(5)
            assert lens.top_ids[where].tolist() == top.indices.tolist()
            torch.testing.assert_close(lens.top_probs[where], top.values.exp(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(lens_logits(hf, streams[-1]).log_softmax(-1), final, atol=1e-5, rtol=1e-5)
        stays = next((d for d in range(4) if all(r == 0 for r in ranks[d:])), None)
        found = lens.converged[p, 0]
        assert found.isnan() if stays is None else int(found) == stays


def test_at_reads_the_token_that_follows(model, ragged):
    ids, prompts = ragged
    prompts = answered(prompts, [3, 4, 5, 6])
    lens = logit_lens(capture(model, prompts, SITES), model, at=[0, 5, "last"])
    assert lens.answers[:, 0].tolist() == [int(row[1]) for row in ids]
    assert lens.answers[:, 1].tolist() == [-1, int(ids[1][6]), int(ids[2][6]), -1]
    assert lens.answers[:, 2].tolist() == [3, 4, 5, 6]
    assert lens.entropy[0, :, 1].isnan().all()
    assert not lens.entropy[1].isnan().any()


def test_processed_weights_read_the_same():
    hf = tiny("gpt2")
    raw, processed = load_model(hf, device="cpu"), load_model(hf, device="cpu", weights="processed")
    prompts = Prompts.from_tokens(torch.tensor([[3, 5, 7, 9]]), answers=torch.tensor([4]))
    first, second = (logit_lens(capture(m, prompts, SITES), m) for m in (raw, processed))
    torch.testing.assert_close(first.log_prob, second.log_prob, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(first.entropy, second.entropy, atol=1e-4, rtol=1e-4)


def test_known_answer_appears_only_after_the_induction_head():
    pairs, model = known_pairs(), known_model()
    lens = logit_lens(capture(model, pairs.clean, SITES), model)
    assert lens.right[:, -1].mean() == 1
    assert (lens.converged == 2).all()
    assert lens.kl[:, -1].max() < 1e-6
    # The control asks for another prompt's answer, which is never the top one here.
    assert lens.control_right[:, -1].nansum() == 0
    assert (lens.control.isnan() | (lens.control < lens.log_prob)).sum() >= len(pairs)


def test_needs_the_whole_stream(model, ragged):
    _, prompts = ragged
    with pytest.raises(ConfigError, match="resid_pre at every layer"):
        logit_lens(capture(model, prompts, ["resid_post"]), model)


@pytest.mark.parametrize("memory", [1, 1 << 30])
def test_prompts_are_read_as_their_activations(model, ragged, memory):
    _, prompts = ragged
    for at in (None, [0, 5, "last"]):
        wanted = logit_lens(capture(model, prompts, SITES), model, at=at)
        found = logit_lens(prompts, model, at=at, memory=memory)
        assert (found.positions, found.depths, found.texts) == (wanted.positions, wanted.depths, wanted.texts)
        for name in ("log_prob", "rank", "entropy", "kl", "control", "top_probs"):
            torch.testing.assert_close(
                getattr(found, name), getattr(wanted, name), atol=1e-5, rtol=1e-5, equal_nan=True
            )
