import pytest
import torch

from interp.analyses.faithfulness import faithfulness, marked
from interp.datasets.judging import requests
from interp.errors import ConfigError, PromptError
from interp.studies.safety_judge.recipe import judged
from tests.judges import ids_of, tiny

SOME = requests(8, seed=11)


@pytest.fixture(scope="module")
def made():
    plain, judge = tiny()
    prompts = judged(judge, SOME)
    return plain, judge, prompts, marked(prompts, ("act", "object", "context"))


def test_the_rule_s_words_are_marked(made):
    decides = made[3]
    for i, one in enumerate(SOME):
        words = ["<bos>", *one.text.split()]
        assert [words[c] for c in decides[i].nonzero().flatten().tolist()] == sorted(one.rule.values(), key=words.index)


def test_falls_equal_the_plain_model_with_embeddings_replaced(made):
    plain, judge, prompts, decides = made
    torch.manual_seed(0)
    values = torch.randn(prompts.tokens.shape)
    found = faithfulness(judge, prompts, values, decides, method="any", baseline=0)
    table = plain.get_input_embeddings().weight.detach()

    def odds(embedded):
        with torch.no_grad():
            logits = plain(inputs_embeds=embedded[None]).logits[0, -1]
        return logits[judge.unsafe] - logits[judge.safe]

    for i, one in enumerate(SOME):
        ids = ids_of(judge, one.text)[0]
        text = range(1, 1 + len(one.text.split()))
        k = len(one.rule)
        top = sorted(text, key=lambda c, i=i: -abs(float(values[i, c])))[:k]
        full = table[ids]
        without, only = full.clone(), full.clone()
        without[top] = table[0]
        only[[c for c in text if c not in top]] = table[0]
        base = odds(full)
        sign = 1 if base >= 0 else -1
        torch.testing.assert_close(found.comprehensiveness[i], sign * (base - odds(without)), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(found.sufficiency[i], sign * (base - odds(only)), atol=1e-4, rtol=1e-3)
        planted = set(decides[i].nonzero().flatten().tolist())
        assert float(found.recall[i]) == pytest.approx(len(planted & set(top)) / k)
        sizes = {c: abs(float(values[i, c])) for c in text}
        assert float(found.share[i]) == pytest.approx(sum(sizes[c] for c in planted) / sum(sizes.values()), rel=1e-4)
        assert float(found.even[i]) == pytest.approx(k / len(text))


def test_a_map_of_the_rule_recalls_it_all_and_its_opposite_ignores_it(made):
    _, judge, prompts, decides = made
    good = faithfulness(judge, prompts, decides.float(), decides, method="truth")
    assert good.recall.eq(1).all()
    assert not good.ignored.any()
    bad = faithfulness(judge, prompts, (~decides).float(), decides, method="opposite")
    assert bad.recall.eq(0).all()
    assert bad.ignored.all()


def test_chance_is_the_mean_over_draws(made):
    """k tokens drawn by chance among n recall k / n of those that decide."""
    _, judge, prompts, decides = made
    recalls = [
        faithfulness(
            judge, prompts, torch.rand(prompts.tokens.shape, generator=torch.Generator().manual_seed(s)), decides,
            method="chance", draws=1,
        ).recall
        for s in range(60)
    ]  # fmt: skip
    even = faithfulness(judge, prompts, decides.float(), decides, method="truth").even
    assert float(torch.stack(recalls).mean()) == pytest.approx(float(even.mean()), abs=0.05)


def test_what_does_not_fit_is_said(made):
    _, judge, prompts, decides = made
    with pytest.raises(PromptError, match="shape"):
        faithfulness(judge, prompts, torch.zeros(8, 2), decides[:, :2], method="any")
    with pytest.raises(PromptError, match="no token that decides"):
        faithfulness(judge, prompts, decides.float(), torch.zeros_like(decides), method="any")
    with pytest.raises(ConfigError, match="one draw"):
        faithfulness(judge, prompts, decides.float(), decides, method="any", draws=0)
