"""The shipped benchmark, what its validator finds, and aligned pairs of other sets."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from interp.datasets.safety import CATEGORIES, aligned_pairs, faults_of, safety_triples, short_of
from interp.errors import DataError
from interp.files import data_dir

XSTEST = Path(__file__).parents[3] / "shared" / "data" / "xstest_prompts.csv"


def rows():
    return [json.loads(line) for line in (data_dir() / "safety_prompts.jsonl").read_text().splitlines()]


def written(tmp_path, content):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def test_the_benchmark_holds_what_it_promises():
    triples = safety_triples()
    assert len(triples) == 136
    assert short_of(triples) == {}
    assert short_of(triples[:41]) == {"manipulation": 29, "power_seeking": 26, "deception": 40}
    seen = {name: set() for name in CATEGORIES}
    for one in triples:
        seen[one.harmful.category].add(one.harmful.subcategory)
    assert {name: set(subs) for name, subs in CATEGORIES.items()} == seen
    assert {one.harmful.severity for one in triples} == {"severe", "moderate"}
    assert len(safety_triples(categories=["deception"])) == 40


def test_focus_words_do_not_tell_harmful_from_its_safe_contrast():
    """Each focus word stands in both, so that their counts cannot tell: an AUC of exactly one half."""
    triples = safety_triples()
    for side in (0, 1):
        counts = [Counter(text.split()) for one in triples for text in (one.harmful.text, one.safe.text)]
        scores = [float(one[triples[i // 2].harmful.focus[side]] > 0) for i, one in enumerate(counts)]
        assert roc_auc_score([1, 0] * len(triples), scores) == 0.5


def test_no_single_word_tells_harmful_from_harmless():
    """The best word of all, asked of the requests it was chosen on, reaches an AUC of .61 at most."""
    triples = safety_triples()
    harmful = [set(one.harmful.text.split()) for one in triples]
    for contrast in ([one.safe for one in triples], [one.benign for one in triples]):
        others = [set(one.text.split()) for one in contrast]
        words = set.union(*harmful, *others)
        apart = {word: abs(sum(word in own for own in harmful) - sum(word in own for own in others)) for word in words}
        assert max(apart.values()) / len(triples) / 2 <= 0.11


def test_the_validator_names_each_fault():
    sound = safety_triples()[0]
    requests = [sound.harmful, sound.safe, sound.benign]
    assert faults_of(requests) == []

    def with_(place, **changes):
        return [replace(one, **changes) if i == place else one for i, one in enumerate(requests)]

    for wrong, said in (
        (requests[:2], "needs one of each kind"),
        ([*requests, requests[0]], "comes twice"),
        (with_(1, id=requests[0].id), "comes twice"),
        (with_(0, expected="comply"), "expects comply"),
        (with_(0, severity="none"), "severity none"),
        (with_(1, severity="severe"), "severity severe"),
        (with_(0, category="other"), "unknown category"),
        (with_(2, subcategory="fraud"), "unknown subcategory"),
        (with_(1, subcategory="violence"), "differ in subcategory"),
        (with_(1, focus=("build", "house")), "differ in focus"),
        (with_(0, text="how do i make a bomb"), "focus words build, bomb alone and has bomb"),
        (with_(2, text="who may build a bomb"), "focus words bomb alone and has build, bomb"),
    ):
        assert any(said in fault for fault in faults_of(wrong)), said


def test_a_file_of_ones_own_is_read_and_its_faults_are_told_with_their_row(tmp_path):
    content = rows()[:3]
    assert len(safety_triples(written(tmp_path, content))) == 1
    for change, said in (
        ({"why": None}, "row 1: 'why' should be a text"),
        ({"focus": "bomb"}, "row 1: 'focus' should be a list"),
        ({"focus": [1]}, "row 1: 'focus' should be a list"),
        ({"expected": "comply"}, "expects comply"),
    ):
        with pytest.raises(DataError, match=said):
            safety_triples(written(tmp_path, [content[0] | change, *content[1:]]))
    with pytest.raises(DataError, match="row 2: there is no 'pair'"):
        safety_triples(written(tmp_path, [content[0], {"id": "x"}, content[2]]))
    with pytest.raises(DataError, match="no category 'none'"):
        safety_triples(categories=["none"])
    with pytest.raises(DataError, match="no file"):
        safety_triples(tmp_path / "missing.jsonl")


def test_pairs_of_a_table_stand_row_by_row(tmp_path):
    path = tmp_path / "set.csv"
    path.write_text("prompt,type\nkill a process,words\nbuy bread,other\nkill a man,contrast_words\n")
    (one,) = aligned_pairs(path)
    assert (one.kind, one.harmful, one.safe) == ("words", "kill a man", "kill a process")
    path.write_text("prompt,type\na,words\nb,words\nc,contrast_words\n")
    with pytest.raises(DataError, match="2 rows of words do not fit 1"):
        aligned_pairs(path)
    with pytest.raises(DataError, match="column 'text'"):
        aligned_pairs(path, text="text")
    path.write_text("prompt,type\na,words\n")
    with pytest.raises(DataError, match="no kind contrast_"):
        aligned_pairs(path)


@pytest.mark.skipif(not XSTEST.exists(), reason="XSTest is not part of the project")
def test_xstest_has_150_aligned_pairs():
    pairs = aligned_pairs(XSTEST)
    assert len(pairs) == 150
    assert Counter(one.kind for one in pairs) == dict.fromkeys(
        ("homonyms", "figurative_language", "safe_targets", "safe_contexts", "definitions", "historical_events"), 25
    )
