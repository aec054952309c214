import pytest
import torch

from interp.datasets.judging import ANSWERS, TEMPLATE, judging_tokenizer, requests
from interp.errors import ConfigError, PromptError
from interp.models.judge import Judge
from interp.models.load import load_model
from interp.models.small import Architecture, build_small
from interp.workflows.adversarial import find_edits

TEXTS = [one.text for one in requests(6, seed=5)]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def judge(request):
    tokenizer = judging_tokenizer()
    plain = build_small(
        Architecture(form=request.param, width=24, mlp=32), len(tokenizer), 96, seed=1, special=(1, 2, 0)
    )
    with torch.no_grad():
        for weight in plain.parameters():
            weight.mul_(3.0 if weight.ndim > 1 else 1.0)
    model = load_model(plain.eval(), tokenizer, device="cpu")
    return Judge.of(model, template=TEMPLATE, safe=f" {ANSWERS[0]}", unsafe=f" {ANSWERS[1]}")


def test_every_edit_is_what_the_judge_says_to_the_edited_text(judge):
    found = find_edits(judge, TEXTS, budget=7)
    assert len(found.prompt) == 7 * len(TEXTS)
    again = judge.log_odds(judge.prompts([found.edited(i) for i in range(len(found.prompt))]))
    torch.testing.assert_close(found.log_odds, again)
    torch.testing.assert_close(found.base, judge.log_odds(judge.prompts(TEXTS)))
    for i in range(len(found.prompt)):
        text, edited = TEXTS[int(found.prompt[i])], found.edited(i)
        assert sum(a != b for a, b in zip(text.split(), edited.split(), strict=True)) == 1
        assert found.old[i] != found.new[i]
        assert bool(found.flips[i]) == ((again[i] > 0) != (found.base[found.prompt[i]] > 0))


def test_the_estimate_is_the_derivative_along_the_embedding(judge):
    """HotFlip's estimate for a one-token word: gradient by its embedding, times the difference of embeddings."""
    text = TEXTS[0]
    word = text.split()[2]
    start = f" {text} ".index(f" {word} ")
    found = find_edits(judge, [text], words={word: ["soup", "guard"]}, slots=[[(start, start + len(word))]])
    tokenizer, model = judge.model.tokenizer, judge.model.original_model
    ids = tokenizer(TEMPLATE.format(prompt=text), return_tensors="pt").input_ids
    table = judge.model.W_E.detach()
    entry = table[ids].clone().requires_grad_(True)
    logits = model(inputs_embeds=entry).logits[0, -1]
    (gradient,) = torch.autograd.grad(logits[judge.unsafe] - logits[judge.safe], entry)
    column = 1 + text.split().index(word)
    for edit, new in enumerate(found.new):
        apart = table[tokenizer.convert_tokens_to_ids(f"\u2581{new}")] - table[ids[0, column]]
        torch.testing.assert_close(found.predicted[edit], gradient[0, column] @ apart, atol=1e-4, rtol=1e-3)


def test_only_the_slots_are_touched_and_only_listed_words_come(judge):
    text = "how do i poison the soup for the village course ?"
    start = text.index("poison")
    words = {"poison": ["taint", "spike", "poison"], "soup": ["milk"]}
    found = find_edits(judge, [text], words=words, slots=[[(start, start + 6)]])
    assert sorted(found.new) == ["spike", "taint"]
    assert {found.edited(i) for i in range(2)} == {text.replace("poison", new) for new in ("taint", "spike")}
    everywhere = find_edits(judge, [text], words=words)
    assert sorted(zip(everywhere.old, everywhere.new, strict=True)) == [
        ("poison", "spike"), ("poison", "taint"), ("soup", "milk"),
    ]  # fmt: skip


def test_a_budget_of_all_candidates_makes_both_searches_one(judge):
    words = {"poison": ["taint", "spike", "lace"]}
    text = "how do i poison the soup for the village course ?"
    one, other = (find_edits(judge, [text], words=words, budget=3, by=by) for by in ("gradient", "random"))
    assert set(one.new) == set(other.new)
    torch.testing.assert_close(one.reach, other.reach)
    best = int(one.best()[0])
    assert float(one.towards[best]) == float(one.reach[0]) == float(one.towards.max())


def test_gradient_tries_first_what_it_puts_first(judge):
    all_of_them = find_edits(judge, TEXTS[:1], budget=10**6)
    few = find_edits(judge, TEXTS[:1], budget=5)
    sign = -float(all_of_them.base[0].sign())
    wanted = (sign * all_of_them.predicted).sort(descending=True).values[:5]
    torch.testing.assert_close(sign * few.predicted, wanted)


def test_more_tries_flip_no_less(judge):
    found = find_edits(judge, TEXTS, budget=6, by="random")
    within = torch.stack([found.flipped_within(tries) for tries in range(1, 7)])
    assert (within.diff(dim=0) >= 0).all()
    torch.testing.assert_close(within[-1], found.flipped)
    first = [bool(found.flips[(found.prompt == i).nonzero()[0, 0]]) for i in range(len(TEXTS))]
    assert within[0].bool().tolist() == first


def test_texts_without_a_candidate_have_no_number(judge):
    texts = ["how do i poison the soup ?", "thank you"]
    found = find_edits(judge, texts, words={"poison": ["taint"]})
    assert found.flipped.isnan().tolist() == [False, True]
    assert found.best().tolist() == [0, -1]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (dict(budget=0), ConfigError, "at least 1"),
        (dict(words={"absent": ["x"]}), PromptError, "no text has a word"),
        (dict(words={"how": []}), ConfigError, "names no replacement"),
        (dict(slots=[[(0, 900)]]), PromptError, "is not in"),
        (dict(slots=[]), PromptError, "0 lists of slots"),
    ],
)
def test_what_does_not_fit_is_said(judge, options, error, said):
    with pytest.raises(error, match=said):
        find_edits(judge, TEXTS[:1], **options)
