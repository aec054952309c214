import numpy as np
import pytest
import torch
from scipy import stats

from interp.analyses.similarity import cka
from interp.errors import PromptError


def plain(x, y):
    """The unbiased estimator written as sums over distinct indices (Song et al., eq. 4), divided as in CKA."""
    k, m = x @ x.T, y @ y.T
    n = len(k)

    def hsic(a, b):
        total = 0.0
        for i in range(n):
            for j in range(n):
                if i == j:
                    continue
                total += a[i, j] * b[i, j]
                others = [q for q in range(n) if q not in (i, j)]
                total -= 2 * a[i, j] * sum(b[i, q] for q in others) / (n - 2)
                far = sum(b[q, r] for q in others for r in others if q != r)
                total += a[i, j] * far / ((n - 2) * (n - 3))
        return total / (n * (n - 1))

    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_it_equals_the_sum_over_distinct_indices():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(9, 3))
    y[:, 0] += x[:, 1]
    found = cka(torch.tensor(x), torch.tensor(y), torch.arange(9))
    assert float(found.value) == pytest.approx(plain(x, y), abs=1e-9)


def test_rotation_and_scale_do_not_matter():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 6))
    turned = 3 * x @ np.linalg.qr(rng.normal(size=(6, 6)))[0] + 5
    assert float(cka(torch.tensor(x), torch.tensor(turned), torch.arange(40)).value) == pytest.approx(1.0)


def test_unrelated_wide_representations_are_not_alike():
    """30 prompts, width 400: plain CKA would say about .93."""
    rng = np.random.default_rng(2)
    values = [
        float(cka(*(torch.tensor(rng.normal(size=(30, 400))) for _ in range(2)), torch.arange(30)).value)
        for _ in range(30)
    ]
    assert abs(np.mean(values)) < 0.05


def test_the_interval_covers():
    """The truth by a large sample; 200 samples of 40 prompts. The binomial bound for a nominal 95 % of 200 is 182."""
    rng = np.random.default_rng(3)
    mix = rng.normal(size=(5, 5))

    def draw(n):
        x = rng.normal(size=(n, 5))
        return torch.tensor(x), torch.tensor(x @ mix + 1.5 * rng.normal(size=(n, 5)))

    truth = float(cka(*draw(1500), torch.arange(1500) // 300).value)
    found = [cka(*draw(40), torch.arange(40)) for _ in range(200)]
    assert sum(float(one.low) <= truth <= float(one.high) for one in found) >= 180


def test_few_groups_have_no_interval_and_few_prompts_no_value():
    x = torch.randn(20, 3, dtype=torch.float64)
    assert np.isnan(cka(x, x, torch.arange(20) % 4).low)
    with pytest.raises(PromptError, match="at least 4"):
        cka(x[:3], x[:3], torch.arange(3))


def test_the_interval_is_the_jackknife_over_groups():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(30, 4))
    y = x[:, :2] + rng.normal(size=(30, 2))
    groups = rng.integers(10, size=30)
    found = cka(torch.tensor(x), torch.tensor(y), torch.tensor(groups))
    left = np.array([plain(x[groups != g], y[groups != g]) for g in np.unique(groups)])
    n = len(left)
    error = np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum())
    assert float(found.value) - float(found.low) == pytest.approx(stats.t.ppf(0.975, n - 1) * error, rel=1e-6)
