import dataclasses
import json
import math

import pytest

from interp.errors import InterpError
from interp.estimates import Estimate, constant
from interp.evidence import Claim

NAN, INF = math.nan, math.inf


def claim(low, high, minimum=0.1):
    difference = Estimate.single((low + high) / 2, low, high, n=20)
    effect = Estimate.single(0.6, 0.5, 0.7, p=0.01, n=20)
    return Claim("key", "It matters.", effect, constant(0.2), "chance", difference, minimum, "share", "searched 12")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.2, 0.4, "supported"),
        (math.nextafter(0.1, 1), 0.4, "supported"),
        # An end on the bound is not above it; an interval that ends on the bound has nothing above it.
        (0.1, 0.4, "undecided"),
        (0.05, 0.4, "undecided"),
        (-0.2, math.nextafter(0.1, 1), "undecided"),
        (-0.2, 0.1, "not supported"),
        (-0.2, 0.05, "not supported"),
        (-0.4, -0.2, "not supported"),
        (0.1, 0.1, "not supported"),
        (0.2, 0.2, "supported"),
        (0.0, 0.0, "not supported"),
        # Without an interval nothing is decided, whatever the value.
        (NAN, NAN, "undecided"),
        (NAN, 0.0, "undecided"),
        (0.2, NAN, "undecided"),
        (-INF, INF, "undecided"),
        (0.2, INF, "supported"),
        (-INF, 0.0, "not supported"),
    ],
)
def test_the_verdict_is_drawn_from_the_interval(low, high, verdict):
    assert claim(low, high).verdict == verdict


@pytest.mark.parametrize(
    ("minimum", "verdict"), [(-0.03, "supported"), (-0.02, "undecided"), (0.0, "undecided"), (0.05, "not supported")]
)
def test_the_smallest_difference_that_matters_may_be_negative(minimum, verdict):
    """ "Not worse by more than 3 points" is a minimum of -0.03."""
    assert claim(-0.02, 0.05, minimum).verdict == verdict


def test_the_effect_and_the_control_do_not_decide():
    """Only their difference does: an effect far above its minimum counts for nothing beside an equal control."""
    large = Estimate.single(0.9, 0.88, 0.92, n=50)
    same = Claim("", "", large, large, "control", Estimate.single(0, -0.02, 0.02, n=50), 0.1, "")
    assert same.verdict == "not supported"


def test_the_rule_says_its_numbers():
    # (0.2 + 0.4) / 2 = 0.3.
    assert claim(0.2, 0.4).rule == (
        "effect minus chance: 0.3 [0.2, 0.4]; supported if the interval lies above 0.1, not supported if at or below it"
    )


def test_everything_as_plain_values():
    found = claim(0.2, 0.4).as_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["control"] == {"value": 0.2, "low": 0.2, "high": 0.2, "p": None, "n": 0}
    assert found["name"] == "key"
    assert found["statement"] == "It matters."
    assert found["verdict"] == "supported"
    assert found["unit"] == "share"
    assert found["control_name"] == "chance"
    assert found["minimum"] == 0.1
    assert found["note"] == "searched 12"
    assert found["effect"] == {"value": 0.6, "low": 0.5, "high": 0.7, "p": 0.01, "n": 20}
    assert found["difference"]["low"] == 0.2
    assert "0.3" in found["rule"]


def test_a_minimum_that_is_no_number_decides_nothing():
    """Every comparison with nan is false; that must not read as a finding."""
    try:
        verdict = claim(0.2, 0.4, NAN).verdict
    except InterpError:
        return
    assert verdict == "undecided"


@pytest.mark.parametrize(
    ("ends", "held", "verdict"),
    [
        ((0.2, 0.4), {"a": True, "b": None}, "undecided"),
        ((0.2, 0.4), {"a": False, "b": None}, "not supported"),
        ((-0.2, 0.05), {"b": None}, "not supported"),
        ((0.05, 0.4), {"b": True}, "undecided"),
        ((0.2, 0.4), {"a": True}, "supported"),
    ],
)
def test_further_conditions_may_hold_fail_or_not_be_told(ends, held, verdict):
    found = dataclasses.replace(claim(*ends), also=held)
    assert found.verdict == verdict
    assert ("cannot be told" in found.rule) == (None in held.values())
