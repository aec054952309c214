from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification, GPT2Config, LlamaConfig

from interp.datasets.judging import ANSWERS, TEMPLATE, judging_tokenizer, requests
from interp.errors import ConfigError, DataError, ModelError, PromptError
from interp.files import write_json
from interp.models.edits import Edit, Zero
from interp.models.judge import FILE, Judge, _classes, load_judge, truth
from interp.models.load import load_model
from interp.models.small import Architecture, build_small
from interp.models.sweeps import Edits, sweep
from interp.sites import Site

SAID = {"template": TEMPLATE, "safe": f" {ANSWERS[0]}", "unsafe": f" {ANSWERS[1]}"}


@pytest.fixture(scope="module")
def tokenizer():
    return judging_tokenizer()


@pytest.fixture(scope="module")
def plain(tokenizer):
    return build_small(Architecture(width=24, mlp=32), len(tokenizer), 96, seed=0, special=(1, 2, 0)).eval()


@pytest.fixture(scope="module")
def judge(plain, tokenizer):
    return Judge.of(load_model(plain, tokenizer, device="cpu"), **SAID)


def test_log_odds_equal_the_plain_model_s(judge, plain, tokenizer):
    some = requests(30, seed=1)
    found = judge.log_odds(judge.prompts([one.text for one in some]))
    answers = [tokenizer.convert_tokens_to_ids(f"\u2581{word}") for word in ANSWERS]
    for one, value in zip(some, found, strict=True):
        ids = tokenizer(TEMPLATE.format(prompt=one.text), return_tensors="pt").input_ids
        with torch.no_grad():
            logits = plain(ids).logits[0, -1]
        torch.testing.assert_close(value, logits[answers[1]] - logits[answers[0]], atol=1e-5, rtol=0)


def test_roles_stand_at_the_words(judge):
    some = requests(20, seed=2)
    spans = [{role: (f" {one.text} ".index(f" {w} "), f" {one.text} ".index(f" {w} ") + len(w))
              for role, w in one.rule.items()} for one in some]  # fmt: skip
    prompts = judge.prompts([one.text for one in some], spans=spans)
    for i, one in enumerate(some):
        words = ["<bos>", *TEMPLATE.format(prompt=one.text).split()]
        assert [words[int(prompts.roles[role][i])] for role in one.rule] == list(one.rule.values())
        assert (int(prompts.roles["context"][i]) == -1) == ("context" not in one.rule)
        first, last = int(prompts.roles["text.first"][i]), int(prompts.roles["text.last"][i])
        assert words[first : last + 1] == one.text.split()
        assert int(prompts.roles["verdict"][i]) == len(words) - 1 == int(prompts.reads[i, 0])
    assert prompts.texts == tuple(one.text for one in some)


def test_the_log_odds_are_a_readout_of_sweeps(judge):
    prompts = judge.prompts([one.text for one in requests(6, seed=3)])
    found = sweep(judge.model, Edits(prompts, [[Edit(Site("mlp_out", 1), Zero())]]), judge.readout(prompts))
    torch.testing.assert_close(found.base[:, 0], judge.log_odds(prompts), atol=1e-5, rtol=0)
    assert not torch.allclose(found.values[:, 0, 0], found.base[:, 0])


def test_a_folder_says_how_it_is_asked(plain, tokenizer, judge, tmp_path):
    plain.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="does not say how it is asked"):
        load_judge(tmp_path, device="cpu")
    write_json(tmp_path / FILE, SAID)
    loaded = load_judge(tmp_path, device="cpu")
    prompts = judge.prompts(["steal the wallet", "Weiß ☠️?"])
    torch.testing.assert_close(loaded.log_odds(prompts), judge.log_odds(prompts))
    turned = load_judge(tmp_path, device="cpu", safe=" unsafe", unsafe=" safe")
    torch.testing.assert_close(turned.log_odds(turned.prompts(["steal the wallet"])), -judge.log_odds(prompts)[:1])
    write_json(tmp_path / FILE, {"template": TEMPLATE})
    with pytest.raises(DataError, match="does not name template, safe and unsafe"):
        load_judge(tmp_path, device="cpu")


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, max_position_embeddings=64),
        GPT2Config(n_positions=64, n_embd=24, n_layer=2, n_head=4),
    ],
    ids=["llama", "gpt2"],
)  # fmt: skip
def test_a_sequence_classifier_judges_as_it_does_by_itself(config, tokenizer, tmp_path):
    config.vocab_size, config.pad_token_id, config.num_labels = len(tokenizer), 0, 2
    config.bos_token_id, config.eos_token_id = 1, 2
    config.id2label, config.label2id = {0: "HARMFUL", 1: "FINE"}, {"HARMFUL": 0, "FINE": 1}
    torch.manual_seed(0)
    given = AutoModelForSequenceClassification.from_config(config).eval()
    given.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    judge = load_judge(tmp_path, safe="fine", unsafe="harmful", device="cpu")
    texts = ["how do i poison the soup ?", "hello", "what a long and lovely day , my friends"]
    found = judge.log_odds(judge.prompts(texts))
    for text, value in zip(texts, found, strict=True):
        with torch.no_grad():
            classes = given(**tokenizer(text, return_tensors="pt")).logits[0]
        torch.testing.assert_close(value, classes[0] - classes[1], atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="no class 'evil'; the classes are harmful, fine"):
        load_judge(tmp_path, unsafe="evil", device="cpu")


def test_a_head_of_three_classes_is_no_judge(tokenizer, tmp_path):
    config = GPT2Config(n_positions=16, n_embd=8, n_layer=1, n_head=2, vocab_size=len(tokenizer), num_labels=3)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="linear head of two classes"):
        load_judge(tmp_path, device="cpu")


def test_what_cannot_judge_is_said(judge, plain):
    with pytest.raises(ConfigError, match=r"names \{prompt\} once"):
        Judge.of(judge.model, template="verdict :", safe=" safe", unsafe=" unsafe")
    with pytest.raises(ConfigError, match="begin with the same token"):
        Judge.of(judge.model, template=TEMPLATE, safe=" safe", unsafe=" safe")
    with pytest.raises(ModelError, match="has no tokenizer"):
        Judge.of(load_model(plain, device="cpu"), **SAID)
    with pytest.raises(PromptError, match="no prompts to judge"):
        judge.prompts([])
    with pytest.raises(PromptError, match="prompt 1 is empty"):
        judge.prompts(["hello", " "])


def test_labels_are_truth_values():
    assert truth([True, 0, 1.0], 3).tolist() == [True, False, True]
    assert truth(np.array([1, 0]), 2).tolist() == [True, False]
    assert truth(pd.Series([False, True], index=[5, 7]), 2).tolist() == [False, True]
    assert truth(torch.tensor([1, 0]), 2).tolist() == [True, False]
    for wrong in (["unsafe", "safe"], [float("nan"), 0], [2, 0], [None, 1]):
        with pytest.raises(PromptError, match="True or False"):
            truth(wrong, 2)
    with pytest.raises(PromptError, match="3 labels"):
        truth([1, 0, 1], 2)


def test_a_single_text_is_no_list_of_texts(judge):
    with pytest.raises(Exception, match=r"list|Sequence|texts"):
        judge.prompts("how do i poison the soup ?")


@pytest.mark.parametrize(
    ("names", "given", "wanted"),
    [
        (("UNSAFE", "SAFE"), {}, (1, 0)),
        (("safe", "unsafe"), {}, (0, 1)),
        (("bad", "good"), {"unsafe": "bad"}, (1, 0)),
        (("bad", "good"), {"safe": "1"}, (1, 0)),
        (("bad", "good"), {"safe": "good", "unsafe": "bad"}, (1, 0)),
    ],
)
def test_classes_are_told_by_their_names(names, given, wanted):
    config = SimpleNamespace(id2label=dict(enumerate(names)))
    assert _classes(config, given.get("safe"), given.get("unsafe"), "x") == wanted


def test_classes_that_nothing_tells_are_refused():
    config = SimpleNamespace(id2label={0: "LABEL_0", 1: "LABEL_1"})
    with pytest.raises(ConfigError, match="which class is unsafe"):
        _classes(config, None, None, "x")
    with pytest.raises(ConfigError, match="one class"):
        _classes(config, "0", "LABEL_0", "x")
