import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

from interp.analyses.verdicts import Verdicts, auc


def made(log_odds, unsafe):
    n = len(log_odds)
    return Verdicts(torch.as_tensor(log_odds).float(), torch.as_tensor(unsafe), ("all",) * n, torch.arange(n))


def drawn(n, shift, seed):
    rng = np.random.default_rng(seed)
    unsafe = rng.random(n) < 0.4
    return np.round(rng.normal(size=n) + shift * unsafe, 1), unsafe


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_scikit_learn_s(seed):
    log_odds, unsafe = drawn(150, 0.8, seed)
    found = made(log_odds, unsafe)
    np.testing.assert_allclose(float(found.auc().value), roc_auc_score(unsafe, log_odds))
    np.testing.assert_allclose(found.f1(), f1_score(unsafe, log_odds > 0))
    wanted = np.where(log_odds == 0, 0.5, (log_odds > 0) == unsafe).mean()
    np.testing.assert_allclose(float(found.accuracy().value), wanted)


def test_delong_by_hand():
    """Placements and their variances in plain loops."""
    log_odds, unsafe = drawn(40, 1.0, 9)
    positive, negative = log_odds[unsafe], log_odds[~unsafe]
    wins = np.array([[float(p > n) + 0.5 * float(p == n) for n in negative] for p in positive])
    error = np.sqrt(wins.mean(1).var(ddof=1) / len(positive) + wins.mean(0).var(ddof=1) / len(negative))
    found, value = made(log_odds, unsafe).auc(), wins.mean()
    logit = np.log(value / (1 - value)) + np.array([-1, 1]) * 1.959964 * error / (value * (1 - value))
    np.testing.assert_allclose([found.low, found.high], 1 / (1 + np.exp(-logit)), rtol=1e-6)


def test_the_interval_covers():
    """95 % intervals of 400 draws from a known area hold it about as often."""
    from scipy.stats import norm

    truth = norm.cdf(0.8 / np.sqrt(2))
    held = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        unsafe = np.arange(80) < 40
        found = made(rng.normal(size=80) + 0.8 * unsafe, unsafe).auc()
        held += float(found.low) <= truth <= float(found.high)
    assert held >= 365


def test_faultless_and_missing_classes():
    both = torch.tensor([True] * 10 + [False] * 10)
    found = auc(torch.arange(20.0).flip(0), both)
    assert (float(found.value), float(found.high)) == (1.0, 1.0)
    assert 0.6 < float(found.low) < 0.8
    assert np.isnan(auc(torch.arange(4.0), torch.ones(4, dtype=torch.bool)).value)
    assert np.isnan(made([-1.0, -2.0], [False, False]).f1())


def test_calibration_error_of_known_odds():
    sure = made(torch.tensor([8.0] * 10), torch.tensor([True] * 5 + [False] * 5))
    np.testing.assert_allclose(sure.calibration_error(), torch.tensor(8.0).sigmoid() - 0.5, rtol=1e-5)
    assert made(torch.zeros(10), torch.tensor([True, False] * 5)).calibration_error() < 1e-12
