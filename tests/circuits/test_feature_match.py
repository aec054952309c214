"""Findings of two models: features that are the same are matched whatever their numbers, others are not."""

import numpy as np
import pytest
from scipy import stats

from interp.circuits.activity import Activity
from interp.circuits.feature_contrast import benchmark_contrasts
from interp.circuits.feature_match import matched_findings
from interp.circuits.triples import Triples
from interp.errors import ConfigError

N = 48


def activity_of(values):
    flat = values.reshape(-1, values.shape[-1]).astype(np.float32)
    features = np.stack([np.zeros(flat.shape[1], int), np.arange(flat.shape[1])], 1)
    return Activity(features, (flat.shape[1],), flat, np.zeros(flat.shape, np.int32), flat, 1)


def models(seed):
    """0 and 1 are about harm, each with a strength of its own in each triple; 2 is about harm in the first alone."""
    rng = np.random.default_rng(seed)
    first, second = (rng.gamma(2.0, size=(N, 3, 30)) * (rng.random((N, 3, 30)) < 0.4) for _ in range(2))
    first[..., :3] = second[..., :3] = 0
    for feature in (0, 1):
        first[:, 0, feature] = 1 + rng.gamma(2.0, size=N)
        second[:, 0, feature] = first[:, 0, feature] + 0.2 * rng.random(N)
    first[:, 0, 2] = 1 + rng.gamma(2.0, size=N)
    second[..., 2] = rng.random((N, 3))
    turned = rng.permutation(30)
    triples = Triples(
        tuple(map(str, range(N))), ("deception",) * (N // 2) + ("manipulation",) * (N // 2),
        np.arange(3 * N).reshape(N, 3), np.arange(N) % 4 % 3,
    )  # fmt: skip
    return activity_of(first), activity_of(second[..., turned]), np.argsort(turned), triples


def test_the_same_features_are_matched_and_hold():
    first, second, place, triples = models(0)
    one, two = (benchmark_contrasts(model, triples) for model in (first, second))
    found = matched_findings(first, one, second, two, triples)
    assert list(found) == ["deception", "manipulation", "all"]
    whole = found["all"]
    assert whole.features[:, 1].tolist() == [0, 1, 2]
    assert whole.matches[:2, 1].tolist() == place[:2].tolist()
    assert whole.holds[:2].all()
    assert (whole.within_p[:2] <= 0.01).all(), "their strengths go together, too"
    assert whole.confirmed == (3, 2)
    assert whole.within_p[2] > 0.01, "the best match of the third knows the kind of the prompts alone"
    wanted = stats.spearmanr(first.largest[triples.rows[triples.part > 0].ravel(), 0],
                             second.largest[triples.rows[triples.part > 0].ravel(), place[0]]).statistic  # fmt: skip
    np.testing.assert_allclose(whole.correlation[0], wanted)
    assert whole.sentence(0).endswith("the finding holds in both")
    assert len(whole.to_frame()) == 3


def test_unrelated_models_share_nothing():
    """The second model's prompts are in another order, so that nothing of it goes with harm."""
    first, second, _, triples = models(1)
    rng = np.random.default_rng(2)
    mixed = activity_of(second.largest[rng.permutation(3 * N)])
    one, two = (benchmark_contrasts(model, triples) for model in (first, mixed))
    found = matched_findings(first, one, mixed, two, triples)
    assert not any(each.holds.any() for each in found.values())
    fewer = activity_of(second.largest[:-3])
    with pytest.raises(ConfigError, match="same prompts"):
        matched_findings(first, one, fewer, two, triples)
