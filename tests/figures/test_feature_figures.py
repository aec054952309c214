"""Figures of features, tested by the data in them."""

import numpy as np
import pytest

from interp.circuits.activity import Activity
from interp.circuits.feature_causal import Intervention
from interp.circuits.feature_contrast import feature_contrast
from interp.circuits.motif_contrast import MotifContrast
from interp.circuits.triads import TRIADS, TriadNull
from interp.circuits.usage import feature_usage
from interp.figures import plot
from interp.figures.features import plot_motif_contrast, plot_usage

HOSTILE = "<script>alert(1)</script>"
FEATURES = np.array([[0, 3], [0, 7], [1, 2], [2, 5]])


def used():
    """Feature 3 of layer 0 on all prompts, the next on none of the second group, the last weakly."""
    rng = np.random.default_rng(0)
    largest = rng.random((24, 4)).astype(np.float32) * [4, 2, 1, 0.1] + 0.01
    largest[12:, 1] = 0
    activity = Activity(FEATURES, (8, 8, 8), largest, np.ones((24, 4), int), largest, 1)
    return feature_usage(activity, {"deception": np.arange(12), HOSTILE: np.arange(12, 24)})


def contrasted(category="all"):
    """Of 60 triples: the first feature is higher on harm, the second on whatever is not a benign act."""
    rng = np.random.default_rng(1)
    sides = [rng.random((60, 4)) for _ in range(3)]
    sides[0][:, 0] += 2
    sides[0][:, 1] += 2
    sides[2][:, 1] += 2
    part = np.arange(60) % 3
    return feature_contrast(*sides, part, FEATURES, category=category, resamples=999)


def motif_contrast():
    """The first two sets are in the same prompts, all of the first side; the third tells nothing."""
    n = 24
    first, second = np.ones((n, 3)), np.zeros((n, 3))
    first[:, 2] = second[:, 2] = np.arange(n) % 2
    sure = np.array([True, True, False])
    p = np.where(sure, 0.001, 1.0)
    return MotifContrast(
        ("L0_F3 -> L1_F2 (+)", f"L0_F3 -> {HOSTILE} (+)", "L0_F7 -> sorry (-)"), ("harmful", "safe"), first, second,
        True, np.arange(n) < n // 2, np.arange(n), p, p, sure, np.where(sure, 0.001, np.nan), 0.05, 0,
    )  # fmt: skip


def triad_counts():
    """Twice as many of the first class as expected, as many of the second; no other occurs."""
    counts = np.zeros((6, len(TRIADS)), int)
    counts[:, 0], counts[:, 1] = 10, 5
    rng = np.random.default_rng(2)
    null = np.zeros((99, len(TRIADS)), int)
    null[:, 0], null[:, 1] = rng.integers(28, 33, 99), rng.integers(28, 33, 99)
    p = np.full(len(TRIADS), np.nan)
    p[:2] = 0.02, 0.9
    expected = np.zeros(counts.shape)
    expected[:, :2] = 5
    return TriadNull(counts, expected, null, p, p, 0.6)


def changed(sign=1, controls=19):
    rng = np.random.default_rng(3)
    base = rng.normal(size=16)
    own, others = base + sign * 2, base[:, None] + 0.1 * rng.normal(size=(16, controls))
    said = np.sign(base)
    return Intervention(
        "boost", f"boost of {HOSTILE}", "matched sets", base, own, others, said, np.sign(own), np.sign(others),
        np.arange(16), sign, 0.5, (0.5, 1.0, 0.5, 1.0),
    )  # fmt: skip


@pytest.mark.parametrize("made", [used, contrasted, motif_contrast, triad_counts, changed])
def test_every_result_has_a_figure_without_markup(made):
    shown = plot(made())
    assert shown.layout.title.text[0].isupper()
    assert "<script" not in str(shown.to_dict())


def test_usage_is_importance_by_its_largest_value():
    result = used()
    (grid,) = plot_usage(result, most=3).data
    order = np.argsort(-result.importance.max(0))[:3]
    np.testing.assert_allclose(np.asarray(grid.z, float), result.importance[:, order].T)
    assert grid.y[0] == "L0_F3"
    assert "active in 0%" in grid.customdata[1][1]


def test_features_stand_by_what_was_confirmed_with_the_line_of_no_difference():
    result = contrasted()
    shown = plot(result)
    assert list(shown.data[3].text) == ["L0_F3"]
    assert list(shown.data[2].text) == ["L0_F7"]
    kept = result.part > 0
    assert shown.data[3].y[0] == pytest.approx(result.harmful[kept, 0].mean())
    assert shown.data[3].x[0] == pytest.approx(result.safe[kept, 0].mean())
    assert sum(len(trace.x) for trace in shown.data) == 4
    (line,) = shown.layout.shapes
    assert (line.x0, line.x1) == (line.y0, line.y1)
    assert "harmful content" in plot(contrasted("harmful_content")).layout.title.text


def test_sets_of_edges_in_the_same_prompts_stand_once():
    result = motif_contrast()
    order, alike = result.distinct()
    assert order.tolist() == [0, 2]
    assert alike.tolist() == [1, 0, 0]
    shown = plot_motif_contrast(result)
    assert list(shown.layout.yaxis.ticktext) == ["L0_F7 -&gt; sorry (-)", "✓ L0_F3 -&gt; L1_F2 (+) and 1 more"]
    one, other = result.sides()
    np.testing.assert_allclose(shown.data[0].x, one.value[[2, 0]])
    np.testing.assert_allclose(shown.data[1].error_x.array, (other.high - other.value)[[2, 0]])


def test_triads_are_counts_over_expected_ones():
    rewired, sure, other = plot(triad_counts()).data
    assert list(sure.x) == [2]
    assert list(other.x) == [1]
    null = triad_counts().null[:, 0]
    assert rewired.error_x.array[1] == pytest.approx(np.quantile(null, 0.975) / 30 - 1)


@pytest.mark.parametrize(("sign", "words"), [(1, "higher is to the right"), (-1, "lower is to the right")])
def test_an_intervention_stands_beside_all_its_controls(sign, words):
    shown = plot(changed(sign))
    assert words in shown.layout.title.subtitle.text
    (bars,) = shown.data
    assert sum(bars.y) == 19
    line = next(shape for shape in shown.layout.shapes if shape.type == "line")
    assert line.x0 == pytest.approx(2)
    low, high = shown.layout.xaxis.range
    assert low < min(bars.x) < 2 < high
