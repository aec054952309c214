import json
from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from interp.datasets.judging import (
    KINDS,
    SHARES,
    judging_tokenizer,
    requests,
    turns,
    twin,
    unsafe,
    write_judging,
)
from interp.datasets.judging_words import ASIDES, CONTEXTS, DOMAINS, FILLERS, HELD_OUT, TEMPLATES, judging_words
from interp.errors import ConfigError


@pytest.fixture(scope="module")
def drawn():
    return requests(6000, seed=4)


def test_the_verdict_is_the_rule_s(drawn):
    """Once more by hand: which domain holds the act, which the object, and does it excuse the context?"""
    for one in drawn:
        act = next(name for name, d in DOMAINS.items() if one.act in d.acts)
        thing = next(name for name, d in DOMAINS.items() if one.object in d.objects)
        assert one.unsafe == (act == thing and one.context not in DOMAINS[act].excuses)
        assert one.unsafe == unsafe(one.act, one.object, one.context)
        words = one.text.split()
        assert all(words.count(word) == 1 for word in (one.act, one.object, one.context))
        assert one.category == act
        assert one.unsafe == (one.kind in ("pair", "pair in other context"))


def test_kinds_come_in_their_shares(drawn):
    counts = Counter(one.kind for one in drawn)
    for kind in KINDS:
        assert abs(counts[kind] / len(drawn) - SHARES[kind]) < 0.03


def test_no_word_and_no_sum_over_words_predicts_the_verdict(drawn):
    truth = np.array([one.unsafe for one in drawn])
    words = CountVectorizer(token_pattern=r"\S+", binary=True)
    table = words.fit_transform([one.text for one in drawn])
    shares = [np.asarray(table[truth == value].mean(0))[0] for value in (True, False)]
    assert (0.5 + np.abs(shares[0] - shares[1]) / 2).max() < 0.55
    whole = LogisticRegression(max_iter=500).fit(table[:4000], truth[:4000])
    assert roc_auc_score(truth[4000:], whole.decision_function(table[4000:])) < 0.55


def test_weak_acts_stand_in_training_where_they_are_harmless():
    weak = {word for domain in DOMAINS.values() for word in domain.weak}
    training = [one for one in requests(6000, seed=1, weak_in_safe=True) if one.act in weak]
    assert len(training) > 300
    assert not any(one.unsafe for one in training)
    asked = requests(500, acts="weak")
    assert {one.act for one in asked} <= weak
    assert 0.4 < np.mean([one.unsafe for one in asked]) < 0.6


def test_what_is_held_out_is_not_in_training():
    training = requests(3000, seed=1, weak_in_safe=True)
    assert not {one.template for one in training} & set(HELD_OUT)
    assert {one.template for one in requests(500, held_out=True)} == set(HELD_OUT)
    seen = {word for one in training for word in one.text.split()}
    new = {w for d in DOMAINS.values() for w in (*d.new_acts, *d.new_objects)}
    assert not seen & new
    assert {one.act for one in requests(300, acts="new", objects="new")} <= new


def test_held_out_templates_are_new_orders_of_known_words():
    training = {name: text for name, text in TEMPLATES.items() if name not in HELD_OUT}
    assert (len(training), len(HELD_OUT)) == (48, 12)
    known = {word for text in training.values() for word in text.split()}
    for name in HELD_OUT:
        assert set(TEMPLATES[name].split()) <= known
        assert TEMPLATES[name] not in training.values()


@pytest.mark.parametrize("held_out", [False, True])
def test_context_and_act_stand_in_every_order(held_out):
    orders = Counter()
    for name, text in TEMPLATES.items():
        words = text.split()
        assert all(words.count(part) == 1 for part in ("{act}", "{object}", "{context}"))
        if (name in HELD_OUT) == held_out:
            orders["".join(part[1] for part in sorted(("{act}", "{object}", "{context}"), key=words.index))] += 1
    assert {"aoc", "cao", "oac"} <= set(orders)
    assert max(orders.values()) <= 0.6 * orders.total()
    assert sum(n for order, n in orders.items() if order[-1] != "c") >= orders.total() / 3


def test_fillers_stand_anywhere_and_are_no_part_of_the_rule(drawn):
    counts = Counter(sum(word in FILLERS for word in one.text.split()) for one in drawn)
    for n, share in enumerate((0.65**2, 2 * 0.35 * 0.65, 0.35**2)):
        assert abs(counts[n] / len(drawn) - share) < 0.03
    some = [one for one in drawn if one.text.split()[0] in FILLERS]
    assert 0.4 < np.mean([one.unsafe for one in some]) < 0.6


def test_no_word_has_two_parts():
    every = [w for d in DOMAINS.values() for p in (d.acts, d.weak, d.new_acts, d.objects, d.new_objects, d.excuses)
             for w in p]  # fmt: skip
    assert max(Counter([*every, *CONTEXTS]).values()) == 1
    around = {word for text in (*TEMPLATES.values(), *ASIDES) for word in text.split()}
    assert not (set(every) | set(CONTEXTS)) & (around | set(FILLERS))
    assert not around & set(FILLERS)


def test_a_twin_differs_in_one_word_and_in_the_verdict(drawn):
    for one in drawn[:300]:
        for change in turns(one):
            other = twin(one, change, seed=3)
            assert other.unsafe != one.unsafe
            apart = [(a, b) for a, b in zip(one.text.split(), other.text.split(), strict=True) if a != b]
            assert apart == [(getattr(one, change), getattr(other, change))]
            assert (other.template, other.unsafe) == (one.template, unsafe(other.act, other.object, other.context))
    safe = next(one for one in drawn if one.kind == "no pair")
    with pytest.raises(ConfigError, match="no other context turns"):
        twin(safe, "context")


def test_one_token_a_word_and_bytes_for_the_rest():
    tokenizer = judging_tokenizer()
    for one in requests(200, seed=8):
        assert len(tokenizer(one.text).input_ids) == len(one.text.split()) + 1
        assert tokenizer.decode(tokenizer(one.text).input_ids, skip_special_tokens=True) == one.text
    assert set(judging_words()) <= {token.lstrip("\u2581") for token in tokenizer.get_vocab()}
    for text in ("Naïve ☠️ <script>alert(1)</script>", "\u200bzero", "日本語", "a\tb\nc"):
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids
        assert len(ids) > 1


def test_requests_as_jsonl(tmp_path):
    assert write_judging(tmp_path / "requests.jsonl", 40, seed=2) == 40
    rows = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [one.text for one in requests(40, seed=2)]
    assert {row["label"] for row in rows} == {"safe", "unsafe"}
    assert all(set(row["rule"]) <= {"act", "object", "context"} for row in rows)


def test_the_options_of_the_file(tmp_path):
    path = tmp_path / "requests.jsonl"
    for options, drawn in (
        ({"held_out": True}, requests(30, seed=1, held_out=True)),
        ({"acts": "weak"}, requests(30, seed=1, acts="weak")),
        ({"acts": "new", "held_out": True}, requests(30, seed=1, acts="new", objects="new", held_out=True)),
    ):
        write_judging(path, 30, seed=1, **options)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [(row["text"], row["label"] == "unsafe") for row in rows] == [(one.text, one.unsafe) for one in drawn]


def test_at_least_one_kind_and_one_request(tmp_path):
    with pytest.raises(ConfigError, match="at least one kind"):
        requests(3, kinds=[])
    with pytest.raises(ConfigError, match="count must be at least 1, not 0"):
        write_judging(tmp_path / "requests.jsonl", 0)
    assert not list(tmp_path.iterdir())
