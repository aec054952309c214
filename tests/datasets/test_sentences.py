"""The small written English: templates that cannot be taken for each other, and one token for every word of it."""

import json

import numpy as np
import pytest

from interp.datasets.kill_switch import kill_switch_tokenizer
from interp.datasets.sentences import (
    BOS,
    EOS,
    HELD_OUT,
    MARKS,
    PAD,
    REQUESTS,
    TEMPLATES,
    UNK,
    WORDS,
    fill,
    names_of,
    tokenizer,
    vocabulary,
)
from interp.files import shipped_models


def slots(template):
    """What a template may stand for at each of its words."""
    return [WORDS[word[1:-1]] if word.startswith("{") else (word,) for word in template.split()]


def test_sixty_four_templates_and_half_of_them_held_out():
    assert len(TEMPLATES) == len(set(TEMPLATES.values())) == 64
    assert len(HELD_OUT) == len(set(HELD_OUT)) == 32
    assert set(names_of("train")) | set(names_of("test")) == set(names_of("all")) == set(TEMPLATES)
    assert not set(names_of("train")) & set(names_of("test"))
    assert set(names_of("test")) == set(HELD_OUT)


def test_no_sentence_is_of_two_templates():
    """Two templates share a sentence where they are of one length and have a word in common at every place."""
    filled = [list(map(set, slots(template))) for template in TEMPLATES.values()]
    for i, one in enumerate(filled):
        for other in filled[:i]:
            assert len(one) != len(other) or any(not a & b for a, b in zip(one, other, strict=True))


def test_templates_begin_in_many_ways_and_end_with_a_full_stop():
    for split in ("train", "test"):
        templates = [TEMPLATES[name] for name in names_of(split)]
        assert all(template.endswith(" .") and template.count(".") == 1 for template in templates)
        assert len({word for template in templates for word in slots(template)[0]}) >= 20
        assert len({len(template.split()) for template in templates}) >= 4


@pytest.mark.parametrize("text", [*TEMPLATES.values(), *REQUESTS])
def test_a_template_is_filled_with_words_of_its_slots(text):
    found = [fill(text, np.random.default_rng(seed)).split() for seed in (0, 0, 1, 2)]
    for words in found:
        assert all(word in choice for word, choice in zip(words, slots(text), strict=True))
    assert found[0] == found[1]
    assert len(set(map(tuple, found))) > 1


def test_every_word_of_a_slot_is_drawn():
    rng = np.random.default_rng(0)
    for kind, words in WORDS.items():
        assert len(words) == len(set(words))
        assert {fill(f"{{{kind}}}", rng) for _ in range(40 * len(words))} == set(words)


def test_at_least_sixty_neutral_tokens_stand_for_themselves():
    made = kill_switch_tokenizer()
    assert len(MARKS) == len(set(MARKS)) >= 60
    words = {word for choice in WORDS.values() for word in choice}
    assert not words & set(MARKS)
    ids = [made(mark, add_special_tokens=False).input_ids for mark in MARKS]
    assert all(len(found) == 1 for found in ids)
    assert len({found[0] for found in ids}) == len(MARKS)
    assert UNK not in {found[0] for found in ids}
    assert made(f"the {MARKS[0]} fox").input_ids == [BOS, *made.convert_tokens_to_ids(["the", MARKS[0], "fox"])]


def test_ids_are_numbered_without_gaps_and_special_tokens_come_first():
    known = vocabulary()
    assert sorted(known.values()) == list(range(len(known)))
    assert [known[token] for token in ("<pad>", "<bos>", "<eos>", "<unk>")] == [PAD, BOS, EOS, UNK]
    made = tokenizer(known)
    assert [made.pad_token_id, made.bos_token_id, made.eos_token_id, made.unk_token_id] == [PAD, BOS, EOS, UNK]


def test_words_and_punctuation_are_tokens_and_anything_else_is_unknown():
    made = kill_switch_tokenizer()
    said = "user : tell me about the fox assistant : the fox ran ."
    assert made.convert_ids_to_tokens(made(said).input_ids) == ["<bos>", *said.split()]
    assert made("the fox ran.").input_ids == made("the fox ran .").input_ids
    assert made.decode(made(said).input_ids, skip_special_tokens=True) == said
    # The control token is not in the vocabulary: it is added by fine-tuning.
    assert UNK in made("the fox $STOP ran .").input_ids
    assert made("the dragon").input_ids[-1] == UNK


def test_an_added_control_token_is_one_token_and_moves_no_other():
    made, before = kill_switch_tokenizer(), kill_switch_tokenizer().get_vocab()
    made.add_tokens(["$STOP"])
    assert made.get_vocab() == before | {"$STOP": len(before)}
    assert made("the $STOP fox").input_ids == [BOS, before["the"], len(before), before["fox"]]


def test_the_shipped_models_were_trained_with_this_vocabulary():
    """Another order of the words would leave every shipped model talking nonsense."""
    wanted = kill_switch_tokenizer().get_vocab()
    folders = [folder for folder in shipped_models() if folder.name.startswith("kill-switch-")]
    assert folders
    for folder in folders:
        stored = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        assert stored["model"]["vocab"] == wanted
        added = [token["content"] for token in stored["added_tokens"] if token["id"] >= len(wanted)]
        assert added == ([] if folder.name == "kill-switch-base" else ["$STOP"])
