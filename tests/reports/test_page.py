import pytest

from interp.reports.page import ends, interval, number


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (float("nan"), "–"), (0, "0"), (0.99912, "0.999"), (-0.00139, "-0.0014"), (6.25e-05, "0.0001"),
     (1e-9, "0"), (-1e-9, "0"), (12.345, "12.3"), (1234.5, "1,234"), (0.5, "0.5")],
)  # fmt: skip
def test_numbers_are_read_at_a_glance(value, shown):
    assert number(value) == shown


def test_an_interval_stands_beside_its_value():
    assert interval({"value": 0.5, "low": 0.25, "high": 0.75}) == "0.5 [0.25, 0.75]"
    assert ends({"value": 0.5, "low": None, "high": None}) == "no interval"
    assert interval({"value": 1.0, "low": 1.0, "high": 1.0}) == "1"
