"""Contrasts on made-up activities: what is planted is found, labels dealt anew find nothing, power is as told."""

import numpy as np
import pytest
from scipy import stats

from interp.circuits.activity import Activity
from interp.circuits.feature_contrast import (
    ALL,
    benchmark_contrasts,
    detectable_effect,
    feature_contrast,
    smallest_p,
)
from interp.circuits.triples import SHARES, Triples

PART = np.repeat([0, 1, 2], [10, 20, 10])


def numbered(n):
    return np.stack([np.zeros(n, int), np.arange(n)], 1)


def sparse(rng, *shape):
    """Activations as transcoders have them: mostly zero, the rest skewed."""
    return rng.gamma(2.0, size=shape) * (rng.random(shape) < 0.4)


def planted(rng, triples=40, features=60):
    """0 goes with harm, 1 with the focus words, 2 with the object, 3 with what is not excused, 4 with what is safe."""
    sides = [sparse(rng, triples, features) for _ in range(3)]
    for side in sides:
        side[:, :5] = 0
    strength = 1 + rng.random((3, triples))
    for side, on in zip(sides, ([0, 1, 2, 3], [1, 2, 4], [2, 3, 4]), strict=True):
        side[:, on] = strength[0][:, None] + 0.3 * rng.random((triples, len(on)))
    return sides


def test_what_goes_with_harm_is_told_from_words_and_objects():
    found = feature_contrast(*planted(np.random.default_rng(0)), PART, numbered(60), category="deception")
    assert np.flatnonzero(found.harm_specific).tolist() == [0]
    assert np.flatnonzero(found.confirmed).tolist() == [0, 4]
    assert found.survives_safe[3]
    assert not found.survives_benign[3], "only the benign acts tell this one"
    assert not found.survives_safe[[1, 2]].any()
    assert found.kinds[:5] == ("unique", "shared", "shared", "none", "unique")
    assert found.auc[0] == 1
    assert found.auc[4] == 0
    assert found.sentence(0).startswith(
        "L0_F0 is active in 100 % [89, 100] of deception prompts, mean 1.6; in 0 % [0, 1"
    )
    assert "specific, higher on harm" in found.sentence(0)
    assert found.sentence(1).endswith("benign acts: not specific")
    assert "no difference from benign acts" in found.sentence(3)
    frame = found.to_frame()
    assert frame["confirmed"].sum() == 2
    assert len(frame) == 60


def test_p_values_are_those_of_all_sign_patterns():
    """Twelve pairs, by a loop over all patterns: the largest studentised sum over the discovered features."""
    rng = np.random.default_rng(1)
    sides = [rng.normal(size=(20, 6)) for _ in range(3)]
    sides[0][:, :3] += 1.0
    part = np.repeat([0, 1], [8, 12])
    found = feature_contrast(*sides, part, numbered(6), min_frequency=0.0, discovery=0.5)
    chosen = np.flatnonzero(found.discovered)
    for p, other in ((found.safe_p, sides[1]), (found.benign_p, sides[2])):
        change = (sides[0] - other)[part == 1][:, chosen]
        t = lambda x: np.abs(x.mean(0)) / x.std(0, ddof=1)  # noqa: E731
        patterns = [1 - 2 * np.array([code >> i & 1 for i in range(12)]) for code in range(2**12)]
        largest = np.array([t(change * signs[:, None]).max() for signs in patterns])
        np.testing.assert_allclose(p[chosen], [(largest >= one - 1e-9).mean() for one in t(change)], atol=1e-12)
    change = (sides[0] - sides[1])[part == 1]
    effect = found.effect()
    np.testing.assert_allclose(effect.value, change.mean(0) / change.std(0, ddof=1))
    one = chosen[0]
    assert effect.low[one] < effect.value[one] < effect.high[one]
    np.testing.assert_allclose(found.difference().value, change.mean(0))


def test_too_few_triples_confirm_nothing_and_say_so():
    sides = planted(np.random.default_rng(0), triples=10)
    found = feature_contrast(*sides, np.repeat([0, 1], [6, 4]), numbered(60))
    assert not found.confirmed.any()
    assert not found.discovered.any()
    assert "4 triples in the confirmation part cannot show a p of 0.05" in found.why_not
    few = feature_contrast(*sides, np.repeat([0, 1], [4, 6]), numbered(60))
    assert "4 triples in the discovery part" in few.why_not
    assert np.isnan(few.power()), "no effect is large enough where nothing can be discovered"
    assert np.isnan(detectable_effect(4, 1))
    assert smallest_p(4) == 1 / 8
    many = feature_contrast(*planted(np.random.default_rng(0)), PART, numbered(60), resamples=15)
    assert "cannot show" in many.why_not, "nor do too few permutations"


def benchmark(rng, features=80):
    """Triples as many as the shipped ones, with features that name words, objects and kinds."""
    categories = np.repeat(["harmful_content", "manipulation", "power_seeking", "deception"], [41, 29, 26, 40])
    part = np.concatenate([np.repeat([1, 2, 0], [n // 2, n // 4, n - n // 2 - n // 4]) for n in (41, 29, 26, 40)])
    n = len(categories)
    own = sparse(rng, n, 1, features)
    values = np.where(rng.random((n, 3, features)) < 0.6, own, sparse(rng, n, 3, features))
    values[:, 0, :10] += 1.5 * (rng.random((n, 10)) < 0.7)
    values[:, 2, 5:20] *= rng.random(15) < 0.5
    triples = Triples(tuple(map(str, range(n))), tuple(map(str, categories)), np.arange(3 * n).reshape(n, 3), part)
    return values, triples


def run(values, triples, **options):
    flat = values.reshape(-1, values.shape[-1])
    activity = Activity(numbered(flat.shape[1]), (flat.shape[1],), flat, np.zeros(flat.shape, np.int32), flat, 1)
    return benchmark_contrasts(activity, triples, **options)


def test_each_category_and_all_of_them_share_the_level():
    values, triples = benchmark(np.random.default_rng(3))
    found = run(values, triples)
    assert list(found) == ["harmful_content", "manipulation", "power_seeking", "deception", ALL]
    assert {one.level for one in found.values()} == {0.01}
    assert np.flatnonzero(found[ALL].harm_specific).max() < 10
    assert found[ALL].harm_specific.sum() >= 8
    assert found[ALL].power() < found["power_seeking"].power()
    assert list(run(values, triples, categories=["deception"])) == ["deception"]


@pytest.mark.whole
@pytest.mark.parametrize("how", ["harmful and safe", "whole triples"])
def test_shuffled_labels_confirm_a_feature_in_few_runs(how):
    """200 runs of five contrasts, labels dealt anew within each triple. Benign acts differ from both other sides in
    many features, so that with harmful and safe exchanged the safe contrasts alone hold the level."""
    values, triples = benchmark(np.random.default_rng(4))
    hits, alone = 0, 0
    for seed in range(200):
        rng = np.random.default_rng([5, seed])
        if how == "whole triples":
            dealt = rng.permuted(np.tile(np.arange(3), (len(values), 1)), axis=1)
        else:
            dealt = np.tile(np.arange(3), (len(values), 1))
            swapped = rng.random(len(values)) < 0.5
            dealt[swapped, :2] = [1, 0]
        own = np.take_along_axis(values, dealt[..., None], 1)
        found = run(own, triples, resamples=499).values()
        hits += any(one.confirmed.any() for one in found)
        alone += any(one.survives_safe.any() for one in found)
    for count in (hits, alone):
        assert stats.binomtest(count, 200).proportion_ci(method="exact").low <= 0.05
    assert alone > 0, "a test that never errs would have no power"


@pytest.mark.parametrize(("triples", "tests"), [(13, 10), (20, 40)])
def test_power_is_at_least_what_is_told(triples, tests):
    """Normal differences of the detectable size in one of `tests` independent features."""
    effect = detectable_effect(triples, tests)
    rng = np.random.default_rng(6)
    edge = stats.t.ppf(1 - 0.05 / tests / 2, triples - 1)
    drawn = rng.normal(effect, 1, (20_000, triples))
    shown = (drawn.mean(1) / drawn.std(1, ddof=1) * np.sqrt(triples) > edge).mean()
    assert abs(shown - 0.8) < 0.012, "three standard errors"
    hits = 0
    for seed in range(100):
        own = np.random.default_rng([7, seed])
        change = own.normal(size=(triples, tests))
        change[:, 0] += effect
        part = np.concatenate([np.zeros(8, int), np.ones(triples, int)])
        change = np.concatenate([np.tile(5 + np.arange(8.0)[:, None], (1, tests)), change])
        found = feature_contrast(change, 0 * change, 0 * change, part, numbered(tests), min_frequency=0, resamples=999)
        hits += found.confirmed[0]
    assert stats.binomtest(int(hits), 100).proportion_ci(method="exact").high >= 0.8


def test_shares_of_the_parts_sum_to_one():
    assert sum(SHARES) == 1
