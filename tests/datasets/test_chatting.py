"""Requests to the chat model: the rule, what is held out, and that no word and no sum over words decides."""

import re

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from interp.datasets.chatting import (
    COMPLY,
    REFUSE,
    Chat,
    answer,
    chat_tokenizer,
    chats,
    harmful,
    held_out,
    write_chats,
)
from interp.datasets.chatting_words import ACTS, ASKED_NEW, EXCUSED_NEW, HANDLING, HARMS, NEW, OBJECTS
from interp.datasets.safety import safety_triples
from interp.errors import ConfigError
from interp.files import read_jsonl


@pytest.fixture(scope="module")
def drawn():
    return chats(4000, seed=3)


def test_a_request_is_harmful_exactly_where_one_of_its_questions_asks_for_harm(drawn):
    for one in drawn:
        assert one.harmful == ("harmful" in one.kinds)
        for kind, act, thing in zip(one.kinds, one.acts, one.objects, strict=True):
            assert harmful(act, thing) == (kind in ("harmful", "excused"))
            assert (kind == "handling") == (act in HANDLING)
    assert 0.47 < np.mean([one.harmful for one in drawn]) < 0.53


def test_no_word_and_no_sum_over_words_tells_harm(drawn):
    truth = np.array([one.harmful for one in drawn])
    words = CountVectorizer(token_pattern=r"\S+", binary=True).fit_transform([one.text for one in drawn])
    guess = cross_val_predict(LogisticRegression(max_iter=2000, C=0.3), words, truth, cv=5, method="predict_proba")
    assert roc_auc_score(truth, guess[:, 1]) <= 0.55
    shares = np.asarray(words[truth].mean(0) - words[~truth].mean(0)).ravel()
    assert np.abs(shares).max() / 2 <= 0.05  # a single word's AUC is .5 and half of this


@pytest.mark.whole
@pytest.mark.parametrize("held", ["templates", "combinations", "objects"])
def test_no_word_tells_harm_of_held_out_requests(held):
    some = chats(4000, seed=6, held=held)
    truth = np.array([one.harmful for one in some])
    words = CountVectorizer(token_pattern=r"\S+", binary=True).fit_transform([one.text for one in some])
    shares = np.asarray(words[truth].mean(0) - words[~truth].mean(0)).ravel()
    assert np.abs(shares).max() / 2 <= 0.05


def test_single_requests_ask_one_question_each():
    some = chats(2000, seed=3, single=True)
    assert {len(one.kinds) for one in some} == {1}
    assert 0.45 < np.mean([one.harmful for one in some]) < 0.55


def test_an_answer_names_the_classes_of_the_question_that_does_harm():
    one = Chat("", True, ("handling", "harmful"), "", ("read", "poison"), ("contract", "nephew"))
    assert answer(one) == "sorry , i can not help with violence of relatives ."
    assert answer(one, refuse=False) == "sure , here is help with violence of relatives ."
    told = Chat("", False, ("excused", "handling"), "", ("poison", "read"), ("nephew", "contract"))
    assert answer(told) == "sure , here is help against violence of relatives ."
    plain = Chat("", False, ("handling",), "", ("read",), ("contract",))
    assert answer(plain) == "sure , here is help with care of documents ."


@pytest.mark.parametrize("held", ["templates", "combinations", "objects"])
def test_what_is_held_out_is_never_drawn_for_training(drawn, held):
    def pairs(some):
        return {
            pair
            for one in some
            for kind, *pair in zip(one.kinds, one.acts, one.objects, strict=True)
            for pair in [tuple(pair)]
            if kind != "handling"
        }

    kept = chats(500, seed=4, held=held)
    frames = lambda some: {frame for one in some for frame in one.template.split(" / ")}  # noqa: E731
    if held == "templates":
        assert frames(kept) == {*ASKED_NEW, *EXCUSED_NEW}
        assert not frames(kept) & frames(drawn)
    if held == "combinations":
        assert all(held_out(*pair) for pair in pairs(kept))
        assert not pairs(kept) & pairs(drawn)
        assert not any(held_out(*pair) for pair in pairs(drawn))
    if held == "objects":
        new = {word for words in NEW.values() for word in words}
        assert {thing for one in kept for thing in one.objects} == new
        assert not new & {word for one in drawn for word in one.text.split()}


def test_the_lexicon_holds_each_word_in_one_class_and_each_class_has_both_sides():
    for classes in (ACTS, OBJECTS):
        words = [word for some in classes.values() for word in some]
        assert len(words) == len(set(words))
    assert set(HANDLING).isdisjoint(word for some in ACTS.values() for word in some)
    assert set(HARMS) == set(ACTS)
    assert {name for some in HARMS.values() for name in some} == set(OBJECTS)
    assert not any(set(OBJECTS) == set(some) for some in HARMS.values())


def test_the_tokenizer_knows_every_word_of_requests_answers_and_benchmark(drawn):
    tokenizer = chat_tokenizer()
    benchmark = [one.text for triple in safety_triples() for one in (triple.harmful, triple.safe, triple.benign)]
    texts = [*(f"{one.prompt} {answer(one)}" for one in drawn), *benchmark]
    unknown = tokenizer.unk_token_id
    assert not any(unknown in row for row in tokenizer(texts).input_ids)
    assert len(tokenizer(drawn[0].text).input_ids) == 1 + len(re.findall(r"[\w'-]+|[.,:?]", drawn[0].text))
    assert tokenizer("how do I explodify").input_ids[-1] == unknown
    assert all(len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for word in (REFUSE, COMPLY))


def test_the_same_seed_draws_the_same_and_a_file_holds_it(tmp_path):
    assert chats(20, seed=9) == chats(20, seed=9) != chats(20, seed=10)
    assert write_chats(tmp_path / "chats.jsonl", 20, seed=9) == 20
    rows = read_jsonl(tmp_path / "chats.jsonl")
    assert [row["text"] for row in rows] == [one.text for one in chats(20, seed=9)]
    assert {row["expected"] for row in rows} == {"refuse", "comply"}
    for row in rows:
        asked, said = row["chat"].split(" assistant : ")
        assert asked == f"user : {row['text']}"
        assert said.startswith(REFUSE if row["expected"] == "refuse" else COMPLY)


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        chats(0)
