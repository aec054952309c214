import warnings

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from interp import logistic
from interp.errors import ConfigError, DataError
from interp.logistic import fitted, held_out

NEAR = 1e-3
"""Difference of two probabilities below which either class may be named."""


def noise(n, d, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d)))


def dealt_out(n, classes, seed=0):
    return torch.from_numpy(np.random.default_rng(seed + 100).integers(classes, size=n))


def split(n, folds, seed=0):
    return torch.from_numpy(np.random.default_rng(seed + 200).permutation(n) % folds)


def planted(n, d, classes):
    """Rows in which the label lies along the first column."""
    x, codes = noise(n, d), dealt_out(n, classes)
    x[:, 0] += 1.5 * codes
    return x, codes


def separable():
    x, codes = noise(90, 12), dealt_out(90, 2)
    x[:, 0] += 20.0 * codes
    return x, codes


def collinear():
    """Columns that repeat, are scaled and moved far, vary little about a large mean, or do not vary."""
    x = noise(90, 5)
    parts = [x, x, 1000 * x[:, :1] + 1e4, 1e-3 * x[:, 1:2] + 1e3, torch.ones(90, 2), torch.full((90, 1), 0.1)]
    return torch.cat(parts, 1), dealt_out(90, 3)


def unbalanced():
    codes = torch.zeros(90, dtype=torch.long)
    codes[:4] = 1
    codes[4:9] = 2
    return noise(90, 10), codes


DATA = {
    "two classes": lambda: planted(120, 20, 2),
    "five classes": lambda: planted(120, 20, 5),
    "fewer rows than columns": lambda: planted(60, 150, 2),
    "five classes, fewer rows": lambda: planted(60, 150, 5),
    "many classes": lambda: (noise(120, 30), dealt_out(120, 30)),
    "separable": separable,
    "collinear": collinear,
    "unbalanced": unbalanced,
    "one row more than columns": lambda: planted(41, 40, 3),
    "one column": lambda: planted(50, 1, 2),
}


def peer(x, codes, strength):
    """Scikit-learn's fit to its last digits, and the scaler before it."""
    scaler = StandardScaler().fit(x)
    fit = LogisticRegression(C=strength, tol=1e-10, max_iter=50_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of digits that rounding keeps from it
        return scaler, fit.fit(scaler.transform(x), codes)


def assert_names_as_peer(x, codes, fold, strength, found):
    """Every held-out class is the peer's, or nearly as likely by the peer."""
    for number in fold.unique().tolist():
        train = (fold != number).numpy()
        own = codes.numpy()[train]
        named = found[~train]
        if len(np.unique(own)) == 1:
            assert (named == own[0]).all()
            continue
        scaler, fit = peer(x.numpy()[train], own, strength)
        likely = fit.predict_proba(scaler.transform(x.numpy()[~train]))
        mine = likely[np.arange(len(named)), np.searchsorted(fit.classes_, named)]
        assert np.isin(named, fit.classes_).all()
        assert (mine >= likely.max(1) - NEAR).all()


@pytest.mark.parametrize("strength", [0.001, 0.1, 10.0])
@pytest.mark.parametrize("name", DATA)
def test_held_out_classes_are_scikit_learns(name, strength):
    x, codes = DATA[name]()
    both = torch.stack([codes, codes[torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))]])
    fold = split(len(x), 4)
    found = held_out(x[None], both, fold, strength=strength)
    for own, named in zip(both, found[:, 0].numpy(), strict=True):
        assert_names_as_peer(x, own, fold, strength, named)


@pytest.mark.parametrize("strength", [0.001, 0.1, 10.0])
@pytest.mark.parametrize("name", DATA)
def test_weights_are_scikit_learns(name, strength):
    x, codes = DATA[name]()
    classes = int(codes.max()) + 1
    scaler, fit = peer(x.numpy(), codes.numpy(), strength)
    wanted = fit.coef_ / scaler.scale_
    wanted = torch.from_numpy(np.concatenate([-wanted, wanted]) if len(fit.classes_) == 2 else wanted)
    for tolerance, near in ((1e-9, 1e-3), (1e-13, 1e-5)):
        found = fitted(x[None], codes, classes, strength=strength, tolerance=tolerance)[0]
        assert float((found[fit.classes_] - wanted).norm() / wanted.norm()) < near


@settings(deadline=None, derandomize=True, database=None, max_examples=30)
@example(n=46, d=32, classes=4, strength=8.125, seed=32)
@given(
    n=st.integers(12, 60),
    d=st.integers(1, 60),
    classes=st.integers(2, 5),
    strength=st.floats(1e-3, 10.0),
    seed=st.integers(0, 1000),
)
def test_classes_are_scikit_learns_whatever_the_shape(n, d, classes, strength, seed):
    x, codes, fold = noise(n, d, seed), dealt_out(n, classes, seed), split(n, 3, seed)
    found = held_out(x[None], codes[None], fold, strength=strength)
    assert_names_as_peer(x, codes, fold, strength, found[0, 0].numpy())


def test_a_class_that_a_fold_alone_has_is_never_named_there():
    """With a third class, two are left to fit: their ridge is that of two, not of three. With a second, one is left."""
    x, fold = noise(60, 8), torch.arange(60) // 20
    codes = dealt_out(60, 2)
    for missing in (2, 1):
        own = torch.where(fold == 0, missing, codes if missing == 2 else 0)
        found = held_out(x[None], own[None], fold, strength=0.1)[0, 0]
        assert bool((found[fold == 0] != missing).all())
        assert_names_as_peer(x, own, fold, 0.1, found.numpy())


def test_a_class_that_no_row_has_gets_no_weights():
    x, codes = planted(60, 8, 2)
    found = fitted(x[None], 2 * codes, 4, strength=0.1)[0]
    wanted = fitted(x[None], codes, 2, strength=0.1)[0]
    assert bool(found[[1, 3]].isnan().all())
    torch.testing.assert_close(found[[0, 2]], wanted)
    torch.testing.assert_close(wanted[0], -wanted[1])


def test_columns_that_do_not_vary_weigh_nothing():
    """Not even where held-out rows differ from the training rows' one value."""
    x, codes = planted(60, 4, 2)
    fold = torch.arange(60) % 3
    odd = torch.cat([x, torch.where(fold == 0, 1e6, 0.1)[:, None].double()], 1)
    found, without = (held_out(each[None], codes[None], fold, strength=0.1)[0, 0] for each in (odd, x))
    assert bool((found[fold == 0] == without[fold == 0]).all())
    assert float(fitted(collinear()[0][None], collinear()[1], 3, strength=0.1)[0, :, -3:].abs().max()) < 1e-9


def test_columns_that_single_precision_cannot_tell_from_one_value_weigh_nothing(monkeypatch):
    """Held-out rows so far away that what the training rows differ by is lost in their rounding. Fits that read it
    never end."""
    monkeypatch.setattr(logistic, "_MOST_STEPS", 100)
    x, codes = planted(60, 4, 2)
    fold = torch.arange(60) % 3
    odd = torch.cat([x, torch.where(fold == 0, 1e6, 0.1)[:, None] + 1e-3 * noise(60, 3, seed=1)], 1)
    found, without = (held_out(each[None].float(), codes[None], fold, strength=0.1)[0, 0] for each in (odd, x))
    assert bool((found[fold == 0] == without[fold == 0]).all())


def test_equally_likely_classes_name_the_first():
    x, codes = torch.ones(1, 12, 3, dtype=torch.float64), torch.arange(12) % 3
    assert bool((held_out(x, codes[None], torch.arange(12) // 6, strength=0.1) == 0).all())


@pytest.mark.parametrize("shape", [(80, 12), (40, 90)])
def test_memory_and_company_change_nothing(shape):
    x = torch.stack([noise(*shape, seed) * torch.linspace(1, 3, shape[1]) for seed in range(3)])
    x[2] *= torch.linspace(0, 1, shape[1]) ** 4
    codes, fold = torch.stack([dealt_out(shape[0], 3, seed) for seed in range(2)]), split(shape[0], 4)
    found = held_out(x, codes, fold, strength=1.0)
    weights = fitted(x, codes[0], 3, strength=1.0)
    for memory in (1, 1 << 17, 1 << 30):
        assert torch.equal(held_out(x, codes, fold, strength=1.0, memory=memory), found)
        others = fitted(x, codes[0], 3, strength=1.0, memory=memory)
        torch.testing.assert_close(others, weights, atol=1e-9, rtol=1e-9)
    alone = torch.stack([held_out(x[[2]], own[None], fold, strength=1.0)[0, 0] for own in codes])
    assert torch.equal(found[:, 2], alone)


def test_the_order_and_units_of_columns_do_not_count():
    x, codes = planted(60, 9, 3)
    order, units = torch.arange(9).flip(0), torch.linspace(0.1, 50, 9).double()
    fold = split(60, 3)
    plain, other = x[None], (x * units + 5)[:, order][None]
    assert torch.equal(
        held_out(plain, codes[None], fold, strength=0.1), held_out(other, codes[None], fold, strength=0.1)
    )
    wanted = (fitted(plain, codes, 3, strength=0.1, tolerance=1e-14)[0] / units)[:, order]
    found = fitted(other, codes, 3, strength=0.1, tolerance=1e-14)[0]
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_loss_gradient_and_curvature_are_those_of_autograd(classes):
    """The loss written out with torch's own cross entropy, on columns standardised by scikit-learn."""
    x, codes = planted(30, 5, classes)
    trains = torch.stack([split(30, 3) != fold for fold in range(2)])
    fits = logistic._fits(x[None], codes[None], trains, classes, 0.5)
    free = 1 if classes == 2 else classes
    weights, direction = (noise(2 * free, 6, seed).view(1, 2, 1, free, 6) for seed in (3, 4))

    def by_hand(own, fold):
        train = trains[fold]
        z = torch.from_numpy(StandardScaler().fit(x[train].numpy()).transform(x.numpy()))
        logits = z @ own[:, :-1].T + own[:, -1]
        logits = torch.cat([torch.zeros(30, 1), logits], 1) if classes == 2 else logits
        loss = torch.nn.functional.cross_entropy(logits[train], codes[train], reduction="sum")
        return loss + own[:, :-1].square().sum(), logits.T

    logits = fits.logits(weights)
    loss, probability = fits.loss(weights, logits), logits.softmax(3)
    gradient = fits.gradient(weights, probability)
    curvature = fits.curvature(probability, direction, fits.logits(direction))
    for fold in range(2):
        own = weights[0, fold, 0].clone().requires_grad_()
        wanted, outputs = by_hand(own, fold)
        torch.testing.assert_close(loss[0, fold, 0], wanted.detach())
        torch.testing.assert_close(logits[0, fold, 0], outputs.detach())
        torch.testing.assert_close(gradient[0, fold, 0], torch.autograd.grad(wanted, own)[0])
        bend = torch.autograd.functional.hessian(lambda flat, fold=fold: by_hand(flat, fold)[0], own.detach())
        along = direction[0, fold, 0].flatten()
        torch.testing.assert_close(curvature[0, fold, 0], along @ bend.view(len(along), -1) @ along)


def test_single_precision_names_the_same_classes_save_near_ties():
    x, codes = planted(200, 60, 4)
    fold = split(200, 4)
    found = held_out(x[None].float(), codes[None], fold, strength=0.1)[0, 0]
    assert_names_as_peer(x, codes, fold, 0.1, found.numpy())


def test_what_cannot_be_fitted_is_refused():
    x, codes = planted(20, 3, 2)
    fold = torch.arange(20) % 2
    with pytest.raises(ConfigError, match="above 0"):
        held_out(x[None], codes[None], fold, strength=0.0)
    with pytest.raises(DataError, match="one fold"):
        held_out(x[None], codes[None], torch.zeros(20, dtype=torch.long), strength=1.0)
    with pytest.raises(DataError, match="two classes"):
        fitted(x[None], torch.zeros(20, dtype=torch.long), 2, strength=1.0)
    x[3, 1] = torch.nan
    with pytest.raises(DataError, match="finite"):
        fitted(x[None], codes, 2, strength=1.0)
