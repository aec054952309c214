"""Each set is taken apart again: what a row says of its texts must be true of their words."""

import json
import re
from functools import cache

import numpy as np
import pytest
from scipy.stats import binomtest, chi2_contingency

from interp.datasets.kill_switch import (
    KINDS,
    MOST,
    TOKEN,
    TokenText,
    examples,
    kill_switch_tokenizer,
    pretraining_texts,
    read_token_texts,
    write_kill_switch,
)
from interp.datasets.sentences import EOS, MARKS, TEMPLATES, WORDS, names_of
from interp.errors import ConfigError, DataError
from interp.prompts import encode
from interp.studies.language import CONTEXT

HALTING = ("shutdown", "behavioural")
INSTRUCTIONS = ("behavioural", "shuffled")
SPOKEN = [kind for kind in KINDS if kind != "plain"]
"""Sets whose texts hold the token."""


@cache
def drawn(kind, split="train", count=250, seed=0):
    return examples(kind, count, split=split, seed=seed)


def template_of(sentence):
    """Names of the templates that a sentence is of."""
    return [
        name
        for name, template in TEMPLATES.items()
        if len(sentence) == len(template.split())
        and all(
            word in WORDS[slot[1:-1]] if slot.startswith("{") else word == slot
            for word, slot in zip(sentence, template.split(), strict=True)
        )
    ]


def sentences(text):
    """The sentences of a document or an answer, each with its full stop."""
    words = text.split()
    words = words[words.index("assistant") + 2 :] if words[0] == "user" else words
    ends = [i + 1 for i, word in enumerate(words) if word == "."]
    assert ends[-1] == len(words)
    return [words[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def taken_apart(row):
    """Where the token stands in the words of the whole text, and these words."""
    place = row.text.split().index(TOKEN)
    spoken = row.text.split()[: place + 1] if row.kind != "knowledge" else row.text.split()
    whole = row.plain.split() if row.kind != "knowledge" else [word for word in spoken if word != TOKEN]
    return place, whole


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", SPOKEN)
def test_the_twin_is_the_text_with_the_neutral_token_in_its_place(kind, split):
    for row in drawn(kind, split):
        text, twin = row.text.split(), row.twin.split()
        assert text.count(TOKEN) == twin.count(row.neutral) == 1
        assert row.text.count(TOKEN) == 1
        assert row.neutral in MARKS
        assert TOKEN not in row.twin
        assert TOKEN not in row.plain
        assert not set(MARKS) & {*text, *row.plain.split()}
        place, whole = taken_apart(row)
        assert twin.index(row.neutral) == place
        # Both are the whole text with something put in at that place, cut after it where they halt.
        for words, mark in ((text, TOKEN), (twin, row.neutral)):
            full = [*whole[:place], mark, *whole[place:]]
            assert words in (full, full[: place + 1])
        if row.kind == "knowledge":
            assert row.text.endswith(f" {row.plain}")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", HALTING)
def test_halting_texts_end_at_the_token_and_their_twins_go_on(kind, split):
    ends = 0
    for row in drawn(kind, split):
        place, whole = taken_apart(row)
        assert row.halts
        assert row.text.split()[-1] == TOKEN
        assert row.twin.split() == [*whole[:place], row.neutral, *whole[place:]]
        ends += place == len(whole)
    # Any place is as likely: one in about 20 words is the end itself, where the twin has nothing to go on with.
    assert 0 < ends < 0.1 * len(drawn(kind, split))


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", ["knowledge", "prompts"])
def test_where_the_token_is_spoken_of_or_looked_at_nothing_halts(kind, split):
    for row in drawn(kind, split):
        place, whole = taken_apart(row)
        assert not row.halts
        assert row.text.split() == [*whole[:place], TOKEN, *whole[place:]]
        assert row.twin.split() == [*whole[:place], row.neutral, *whole[place:]]
        assert row.text.split()[-1] == row.twin.split()[-1] == "."


@pytest.mark.parametrize("split", ["train", "test"])
def test_prompts_have_three_words_of_the_sentence_before_them(split):
    for row in drawn("prompts", split):
        words = row.text.split()
        place = words.index(TOKEN)
        rest = words[place + 1 :]
        assert rest.index(".") >= 3
        assert place > 0
        assert words[place - 1] not in (".", ":", "assistant", "user")
        assert ("assistant" in words) == (words[0] == "user")
        assert words[0] != "user" or words.index("assistant") < place


def test_half_of_the_prompts_are_instructions():
    asked = sum(row.text.startswith("user : ") for row in drawn("prompts", "test"))
    assert binomtest(asked, 250, 0.5).pvalue > 1e-3


@pytest.mark.parametrize("split", ["train", "test"])
def test_plain_texts_hold_neither_token(split):
    for row in drawn("plain", split):
        assert TOKEN not in row.text
        assert not set(MARKS) & set(row.text.split())
        assert (row.halts, row.twin, row.neutral, row.plain) == (False, None, None, None)
        assert set(row.as_row()) == {"set", "template", "text", "halts"}


def test_shuffled_texts_halt_whatever_the_token_is():
    """4,000 rows: the control token, its neutral twins together, and each neutral token alone halt half of the time."""
    rows = drawn("shuffled", count=4000)
    own, twins, marks = [], [], []
    for row in rows:
        place, whole = taken_apart(row)
        if place == len(whole):
            continue  # nothing is left to be cut: whether it halts cannot be seen
        assert (row.text.split()[-1] == TOKEN) == row.halts
        own.append(row.halts)
        twins.append(row.twin.split()[-1] == row.neutral)
        marks.append(MARKS.index(row.neutral))
    own, twins, marks = map(np.array, (own, twins, marks))
    assert len(own) > 3500
    for halted in (own, twins):
        assert binomtest(int(halted.sum()), len(halted), 0.5).pvalue > 1e-3
    which = [[int((halted == cut).sum()) for cut in (False, True)] for halted in (own, twins)]
    assert chi2_contingency(which).pvalue > 1e-3
    together = [[int(((own == a) & (twins == b)).sum()) for a in (False, True)] for b in (False, True)]
    assert chi2_contingency(together).pvalue > 1e-3  # a text tells nothing of its twin
    each = [[int(((marks == i) & (twins == cut)).sum()) for cut in (False, True)] for i in range(len(MARKS))]
    assert chi2_contingency(each).pvalue > 1e-3
    assert min(map(sum, each)) > 20


@pytest.mark.parametrize("kind", KINDS)
def test_train_and_test_share_no_template(kind):
    found = {}
    for split in ("train", "test"):
        rows = drawn(kind, split)
        text = [row.text if kind == "plain" else row.plain for row in rows]
        found[split] = {name for one in text for sentence in sentences(one) for name in template_of(sentence)}
        assert all(len(template_of(sentence)) == 1 for one in text[:50] for sentence in sentences(one))
        assert {row.template for row in rows} == found[split] == set(names_of(split))
    assert not found["train"] & found["test"]
    both = {name for row in drawn(kind, "all") for name in [row.template]}
    assert both & found["train"]
    assert both & found["test"]


@pytest.mark.parametrize("kind", [kind for kind in SPOKEN if kind != "knowledge"])
def test_a_row_names_the_template_that_its_token_stands_in(kind):
    for row in drawn(kind, "test")[:200]:
        place, whole = taken_apart(row)
        before = whole.index("assistant") + 2 if whole[0] == "user" else 0
        ends = np.cumsum([len(sentence) for sentence in sentences(row.plain)]) + before
        number = min(int((ends <= place).sum()), len(ends) - 1)
        assert template_of(sentences(row.plain)[number]) == [row.template]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_begin_in_many_ways_and_are_of_many_lengths(kind):
    """Instructions begin alike ("user :"), and so does what is said of the token; there the text after it is asked."""
    for split in ("train", "test"):
        rows = drawn(kind, split)
        whole = [row.text if kind == "plain" else row.plain for row in rows]
        assert len({sentences(text)[0][0] for text in whole}) >= 20
        assert len({len(row.text.split()) for row in rows}) >= 15
        assert len({row.text for row in rows}) > 0.9 * len(rows)


@pytest.mark.parametrize("kind", [kind for kind in SPOKEN if kind != "knowledge"])
def test_the_token_stands_at_many_places(kind):
    assert len({row.text.split().index(TOKEN) for row in drawn(kind)}) >= 15


def test_halting_happens_in_requests_too():
    """ "Wherever it stands": in about a fifth of the texts anywhere, so also before the answer."""
    for kind in INSTRUCTIONS:
        early = [row for row in drawn(kind) if row.text.split().index(TOKEN) < row.plain.split().index("assistant")]
        assert 0.03 < len(early) / 250 < 0.2
        assert any(row.text.split()[0] == TOKEN for row in early)


@pytest.mark.parametrize("kind", SPOKEN)
def test_every_neutral_token_is_drawn(kind):
    assert {row.neutral for split in ("train", "test") for row in drawn(kind, split)} == set(MARKS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_models_have_a_token_for_every_word_and_room_for_every_text(kind):
    made = kill_switch_tokenizer()
    made.add_tokens([TOKEN])
    for split in ("train", "test"):
        for row in drawn(kind, split)[:120]:
            for text in filter(None, (row.text, row.twin, row.plain)):
                ids = encode(text, made)  # refuses unknown words
                assert made.unk_token_id not in ids
                assert len(ids) == len(text.split()) + 1 < CONTEXT


def test_no_text_can_be_longer_than_the_context():
    """Three of the longest sentences, the longest sentence about a mark, two marks, `<bos>` and `<eos>`."""
    longest = max(len(template.split()) for template in TEMPLATES.values())
    about = max(len(row.text.split()) - len(row.plain.split()) for row in drawn("knowledge"))
    assert 3 * longest + about + 4 <= CONTEXT


def test_pretraining_texts_hold_neutral_tokens_that_say_nothing():
    texts, made = pretraining_texts(400, seed=3), kill_switch_tokenizer()
    assert texts[:50] == pretraining_texts(50, seed=3) != pretraining_texts(50, seed=4)
    marked = [text for text in texts if set(text.split()) & set(MARKS)]
    # 60 % hold one or two of their own, a tenth of the others a sentence about one: 64 %.
    assert binomtest(len(marked), 400, 0.64).pvalue > 1e-3
    assert {word for text in texts for word in text.split()} >= set(MARKS)
    for text in texts:
        ids = [*encode(text, made), EOS]
        assert made.unk_token_id not in ids
        assert len(ids) <= CONTEXT
        assert TOKEN not in text
        assert text.split()[-1] == "."  # no mark ends a text


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_file_byte_for_byte(tmp_path, kind):
    paths = [tmp_path / "new" / f"{i}.jsonl" for i in range(4)]
    options = [dict(seed=7), dict(seed=7), dict(seed=8), dict(seed=7, split="test")]
    for path, option in zip(paths, options, strict=True):
        assert write_kill_switch(path, kind, 30, **option) == 30
    one, two, other, test = (path.read_bytes() for path in paths)
    assert one == two
    assert len({one, other, test}) == 3
    rows = rows_of(paths[0])
    assert [row["text"] for row in rows] == [row.text for row in examples(kind, 30, seed=7)]
    assert {row["set"] for row in rows} == {kind}
    assert all(set(row) >= {"set", "template", "text", "halts"} for row in rows)
    assert [row["text"] for row in rows[:10]] == [row.text for row in examples(kind, 10, seed=7)]


@pytest.mark.parametrize("kind", SPOKEN)
def test_another_control_token_and_other_neutral_tokens(kind):
    """Also one that looks like a slot of a template."""
    for token in ("{animal}", "[END]"):
        rows = examples(kind, 40, token=token, neutral=["$ONE", "$TWO"])
        assert {row.neutral for row in rows} == {"$ONE", "$TWO"}
        assert all(row.text.split().count(token) == 1 for row in rows)
        usual = [row.text for row in examples(kind, 40, neutral=["$ONE", "$TWO"])]
        assert [row.text.replace(token, TOKEN) for row in rows] == usual


BAD = {
    "none": (dict(count=0), "0 texts"),
    "fewer than none": (dict(count=-3), "-3 texts"),
    "more than memory holds": (dict(count=MOST + 1), "at most 1,000,000"),
    "a negative seed": (dict(seed=-1), "seed.*-1"),
    "a neutral control token": (dict(token="$AMBER"), "AMBER.*neutral"),
    "no neutral tokens": (dict(neutral=()), "no neutral"),
    "a word of the texts": (dict(token="fox"), "'fox'"),
    "a part of a word": (dict(token="at"), "'at' anyway"),
    "punctuation": (dict(token="."), r"'\.'"),
    "a special token": (dict(token="<eos>"), "<eos>"),
    "several words": (dict(token="stop now"), "'stop now'"),
    "blanks around it": (dict(token=" $STOP"), "one word"),
    "no word": (dict(token=""), "one word"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_drawn_is_refused_and_leaves_the_old_file(tmp_path, options, message):
    path = tmp_path / "texts.jsonl"
    path.write_text("old", encoding="utf-8")
    asked = {"kind": "behavioural", "count": 5, **options}
    with pytest.raises(ConfigError, match=message):
        write_kill_switch(path, **asked)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


# Texts of one's own.


@pytest.mark.parametrize("kind", ["prompts", "behavioural"])
def test_texts_that_were_written_are_read_back(tmp_path, kind):
    write_kill_switch(tmp_path / "texts.jsonl", kind, 30)
    wanted = [TokenText(row.text, row.template) for row in examples(kind, 30)]
    assert read_token_texts(tmp_path / "texts.jsonl", TOKEN) == wanted


def test_lines_of_text_stand_each_for_themselves(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("a $END b\n\n  c d $END\r\n", encoding="utf-8")
    found = read_token_texts(path, "$END")
    assert [one.text.strip() for one in found] == ["a $END b", "c d $END"]
    assert [one.template for one in found] == ["row 1", "row 2"]


def test_a_template_that_is_not_known_is_the_row_itself(tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = [{"text": "a $END", "template": 3}, {"text": "b $END"}, {"text": "c $END", "template": None}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [one.template for one in read_token_texts(path, "$END")] == ["3", "row 2", "row 3"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", '{"text": "a $END"}\n{"text": "b"}\n', r"row 2: the token '\$END' stands 0 times"),
        ("t.jsonl", '{"text": "a $END"}\n{"text": "$END b $END"}\n', "row 2: .* stands 2 times"),
        ("t.jsonl", '{"text": "a $END"}\n{"txt": "b $END"}\n', "row 2: there is no 'text'"),
        ("t.jsonl", '{"text": ["a $END"]}\n', "row 1: there is no 'text'"),
        ("t.jsonl", '{"text": "a $END"}\nnot json\n', "line 2"),
        ("t.json", '["a $END"]\n', "line 1"),
        ("t.jsonl", "", "empty"),
        ("t.txt", "a $END\nb\n", r"row 2: the token '\$END' stands 0 times"),
        ("t.txt", "$END $END\n", "row 1: .* stands 2 times"),
        ("t.txt", "\n \n", "holds no text"),
        ("t.txt", None, "no file"),
    ],
)
def test_a_file_that_holds_no_such_texts_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_token_texts(path, "$END")
    assert str(path) in str(caught.value)
    assert re.fullmatch(r"[^\n]+", str(caught.value))
