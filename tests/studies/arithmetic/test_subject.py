"""The user's own examples, and what two models have both learned."""

import pytest

from interp.datasets.arithmetic import Problem
from interp.datasets.arithmetic_prompts import to_prompts
from interp.errors import ConfigError
from interp.files import data_dir
from interp.models.load import load_model
from interp.studies.arithmetic.answers import answers
from interp.studies.arithmetic.basics import _example_pairs
from interp.studies.arithmetic.parts import splits
from interp.studies.arithmetic.probes import carry_probes, probing_step
from interp.studies.arithmetic.seeds import survives
from interp.studies.arithmetic.subject import ArithmeticSubject, common_task, read_card
from interp.studies.settings import Settings
from interp.studies.side_by_side import side_by_side


def subject(name="arithmetic-add3", **settings):
    folder = data_dir() / "models" / name
    card = read_card(folder)
    assert card is not None
    return ArithmeticSubject(load_model(str(folder), device="cpu"), card, Settings(problems=20, **settings))


def test_an_example_is_patched_in_the_columns_asked_for():
    made = subject(examples=["59 + 73", {"text": "259 + 173", "carries": ["ones", "tens"]}])
    pairs = _example_pairs(made)
    assert {name for name in pairs if "carry" in name} == {
        "example-0.carry", "example-1.carry.ones", "example-1.carry.tens",
    }  # fmt: skip
    for place in ("ones", "tens"):
        pair = pairs[f"example-1.carry.{place}"]
        assert pair.clean.texts[0].startswith("259+173")
        assert pair.clean.labels["changed"][0] in (f"a.{place}", f"b.{place}")
        assert [side.labels["decides"][0] for side in (pair.clean, pair.corrupted)] == ["1", "0"]
    assert made.settings.model_dump()["examples"] == ["59+73", {"text": "259+173", "carries": ["ones", "tens"]}]


def card(task, digits, multiplier=None):
    return {"task": {"task": task, "digits": digits, "multiplier_digits": multiplier}}


def test_two_models_are_asked_what_both_know():
    found = common_task(card("add", 3), card("mixed", 2, 1), ("a", "b"))
    assert found == {"task": "add", "digits": 2, "multiplier_digits": 1}
    with pytest.raises(ConfigError, match="no operator in common"):
        common_task(card("add", 3), card("sub", 3), ("a", "b"))


def part(name, **verdicts):
    difference = {"value": -0.001, "low": -0.2, "high": 0.3}
    claims = [{"name": key, "verdict": verdict, "difference": difference} for key, verdict in verdicts.items()]
    return {"title": name, "claims": claims}


def test_findings_survive_where_every_seed_supports_them():
    parts = [part("one", accuracy="supported", readable="supported", other="supported"),
             part("two", accuracy="supported", readable="undecided")]  # fmt: skip
    table = survives(parts)
    assert table["text"].startswith("1 of 2 findings are supported on every seed: accuracy.")
    assert [row[0] for row in table["rows"]] == ["accuracy", "readable"]
    assert [row[-1] for row in table["rows"]] == ["2 of 2", "1 of 2"]
    assert table["rows"][0][1] == "0.00 [-0.20, 0.30] supported"
    assert side_by_side(parts)["rows"][2] == ["other", "0.00 [-0.20, 0.30] supported", "–"]


def test_every_question_is_answered_by_its_claims():
    """Claims are found by the beginning of their names; one verdict is said as it is, several are counted."""

    def made(name, **verdicts):
        claims = [{"name": k.replace("_", " "), "verdict": v, "statement": f"{k} is so."} for k, v in verdicts.items()]
        return {"name": name, "claims": claims}

    table = answers(
        [
            made(
                "arithmetic-add3",
                readable="supported",
                **{"carry_head": "supported", "carry_before layer 1": "undecided"},
            ),
            made("arithmetic-mixed", **{"own_step: multiplication": "supported"}),
            made("worked-steps", solved="supported", other="supported"),
        ]
    )
    rows = {row[0]: row[1:] for row in table["rows"]}
    assert rows["When does each answer digit become readable?"] == ["supported", "✓ readable is so."]
    assert rows["Which layer and heads carry the carry?"][0] == "1 supported, 1 undecided"
    assert rows["What does training with worked steps change?"][0] == "all supported"
    assert "Is multiplication done column by column?" in rows
    assert "Is base addition learned before the use of carries?" not in rows


def test_own_probes_are_not_taken_for_those_of_the_carry():
    """A user's probe may have the name of one of the study's, or one that ends alike; claims are on the study's."""
    probes = [
        {"label": "carry.ones", "at": ["="], "key": ["a.ones"]},
        {"label": "make-carry.tens", "at": ["="], "key": ["b.tens"]},
    ]
    step = probing_step(subject(probes=probes, analyses={"probing": True}))
    found = step.compute(lambda _: None)
    assert {"carry.ones", "carry.ones own 1", "make-carry.tens"} <= set(found)
    assert found["carry.ones"].positions == ("predict.answer.tens", "=")
    assert [name for name, _ in carry_probes(found)] == ["carry.ones", "carry.tens"]


def test_problems_are_split_by_carry_and_sub_task():
    """12 + 34 has none; 59 + 73 carries plainly; 999 + 1 carries on through nines."""
    found = splits(to_prompts([Problem.parse(text) for text in ("12+34", "59+73", "999+1")]))
    as_lists = {name: kept.tolist() for name, kept in found.items()}
    assert as_lists == {
        "all": [True] * 3,
        "no carry": [True, False, False],
        "a carry": [False, True, True],
        "make-nine": [False, False, True],
        "use-carry": [False, True, True],
        "use-nine": [False, False, True],
    }
