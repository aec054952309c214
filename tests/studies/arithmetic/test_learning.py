"""What was learned when: digits sorted by hand, and claims on curves whose order is known."""

import numpy as np
import pytest
import torch

from interp.datasets.arithmetic import Problem
from interp.datasets.arithmetic_prompts import VOCABULARY, to_prompts
from interp.studies.arithmetic.learning import Learning, digits_by_subtask, learning_claims


def test_digits_are_sorted_as_by_hand():
    """259 + 73 = 332: the ones make a carry, the tens use it, and the hundreds use that of the tens."""
    problems = [Problem.parse("259+73"), Problem.parse("12+34")]
    found = digits_by_subtask(problems, steps=False)
    rows = {name: digits.rows.tolist() for name, digits in found.items()}
    assert rows["+ use-carry.tens"] == [0]
    assert rows["+ use-carry.hundreds"] == [0]
    assert rows["+ base-add.tens"] == [1]
    assert rows["+ all.ones"] == [0, 1]
    prompts = to_prompts(problems, steps=False)
    top = torch.zeros(2, prompts.tokens.shape[1], dtype=torch.long)
    answers = dict(zip(prompts.read_names, prompts.answers[0].tolist(), strict=True))
    assert answers["answer.tens"] == VOCABULARY["3"]
    right = found["+ use-carry.tens"]
    top[0, right.columns[0]] = VOCABULARY["3"]
    assert right.share(top) == 1
    top[0, right.columns[0]] = VOCABULARY["2"]  # 5 + 7 = 12 without the carry
    assert right.share(top) == 0
    allowed = found["+ sum.tens"].allowed[0].tolist()
    assert allowed == [VOCABULARY["2"], VOCABULARY["3"]]
    assert int(right.columns[0]) == int(prompts.roles["answer.tens"][0])


def record(base, carry, known, n=400):
    """Curves of one column as a card has them; the whole is the mean of both kinds of digit."""
    whole = [(x + y) / 2 for x, y in zip(base, carry, strict=True)]
    curves = {"+ base-add.tens": (base, n), "+ use-carry.tens": (carry, n), "+ sum.tens": (known, 2 * n),
              "+ all.tens": (whole, 2 * n)}  # fmt: skip
    digits = {name: {"right": [round(x * m) for x in curve], "n": m} for name, (curve, m) in curves.items()}
    return Learning.of({"steps": list(range(len(base))), "digits": digits})


@pytest.mark.parametrize(
    ("base", "carry", "known", "verdicts"),
    [
        ([0.1, 0.95, 1.0], [0.1, 0.3, 1.0], [0.1, 0.97, 1.0], ["supported", "supported"]),
        ([0.1, 0.5, 0.95], [0.1, 0.5, 0.95], [0.2, 0.98, 1.0], ["not supported", "supported"]),
        ([0.1, 0.5, 0.95], [0.1, 0.5, 0.95], [0.1, 0.5, 0.95], ["not supported", "not supported"]),
        ([0.1, 0.85, 0.95], [0.1, 0.85, 0.95], [0.1, 0.92, 0.98], ["not supported", "not supported"]),
        ([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3], []),
    ],
    ids=["base first", "sum first", "at once", "errors of one", "never"],
)
def test_the_order_of_learning_is_told(base, carry, known, verdicts):
    claims = learning_claims(record(base, carry, known))
    assert [claim.verdict for claim in claims] == verdicts


def test_shares_and_frame():
    found = record([0.1, 0.95], [0.2, 0.9], [0.3, 1.0])
    share = found.share("+ base-add.tens")
    np.testing.assert_allclose(share.value, [0.1, 0.95])
    assert (share.low < share.value).all()
    assert found.reaches("+ base-add.tens", 0.9) == 1
    assert found.reaches("+ base-add.tens", 0.99) is None
    assert len(found.to_frame()) == 8
