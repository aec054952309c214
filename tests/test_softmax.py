import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from interp.softmax import Problems, descend


def problems_of(n=30, axes=5, classes=3, tables=2, labels=2, ridge=0.5, seed=0, held=4):
    """Random rows on axes that are orthogonal over the training rows; the last `held` rows are not trained on."""
    generator = torch.Generator().manual_seed(seed)
    train = torch.ones(tables, n, dtype=torch.float64)
    train[:, n - held :] = 0
    rows = torch.randn(tables, n, axes, generator=generator, dtype=torch.float64)
    rows -= (rows * train[..., None]).sum(1, keepdim=True) / (n - held)
    own = rows * train[..., None]
    sizes, turn = torch.linalg.eigh(own.mT @ own)
    rows = torch.cat([rows @ turn, torch.ones(tables, n, 1, dtype=torch.float64)], 2)
    sizes = torch.cat([sizes, train.sum(1, keepdim=True)], 1)
    codes = torch.randint(classes, (tables, labels, n), generator=generator)
    marked = one_hot(codes, classes).mT.double() * train[:, None, None]
    penalty = torch.full((tables, labels, axes + 1), ridge, dtype=torch.float64)
    penalty[..., -1] = 0
    return Problems(rows, sizes, marked, train, penalty)


def autograd_loss(problems, weights):
    """The loss written out with torch's own cross entropy over the training rows."""
    found = torch.zeros(weights.shape[:2], dtype=torch.float64)
    for table, label in torch.cartesian_prod(*map(torch.arange, weights.shape[:2])).tolist():
        own = problems.train[table] > 0
        logits = problems.rows[table][own] @ weights[table, label].T
        codes = problems.labels[table, label].T[own].argmax(1)
        found[table, label] = torch.nn.functional.cross_entropy(logits, codes, reduction="sum")
        found[table, label] += (problems.ridge[table, label] * weights[table, label].square()).sum() / 2
    return found


def test_loss_gradient_and_curvature_are_those_of_autograd():
    problems = problems_of()
    generator = torch.Generator().manual_seed(1)
    weights, direction = (torch.randn(2, 2, 3, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    loss, probability = problems.loss(weights, problems.logits(weights))
    torch.testing.assert_close(loss, autograd_loss(problems, weights), atol=1e-10, rtol=1e-10)
    leaf = weights.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(autograd_loss(problems, leaf).sum(), leaf)
    torch.testing.assert_close(problems.gradient(weights, probability), wanted, atol=1e-10, rtol=1e-10)
    length = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    along = autograd_loss(problems, weights + length[..., None, None] * direction).sum()
    (slope,) = torch.autograd.grad(along, length, create_graph=True)
    (wanted,) = torch.autograd.grad(slope.sum(), length)
    found = problems.curvature(probability, direction, problems.logits(direction))
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-9)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(6, 40),
    axes=st.integers(1, 8),
    classes=st.integers(2, 6),
    ridge=st.floats(1e-2, 1e3),
    seed=st.integers(0, 1000),
)
def test_the_descent_ends_where_the_gradient_is_zero(n, axes, classes, ridge, seed):
    """|g| at the end, against |g| at the start: an end that the tolerance allows is 1e-5 of the way or nearer."""
    problems = problems_of(n, axes, classes, ridge=ridge, seed=seed, held=2)

    def gradient(weights):
        return problems.gradient(weights, problems.loss(weights, problems.logits(weights))[1])

    end = descend(problems, 1e-14)
    assert float(gradient(end).abs().max()) <= 1e-5 * max(1.0, float(gradient(problems.start()).abs().max()))
    torch.testing.assert_close(end.sum(2)[..., :-1], torch.zeros_like(end.sum(2)[..., :-1]), atol=1e-5, rtol=0)


def test_the_answer_is_that_of_a_plain_newton_descent():
    problems = problems_of(classes=4, ridge=0.1)
    weights = torch.zeros(2, 2, 4, 6, dtype=torch.float64)
    for table, label in ((0, 0), (0, 1), (1, 0), (1, 1)):
        one = Problems(
            problems.rows[[table]], problems.sizes[[table]], problems.labels[[table]][:, [label]],
            problems.train[[table]], problems.ridge[[table]][:, [label]],
        )  # fmt: skip

        def loss(flat, one=one):
            return autograd_loss(one, flat.view(1, 1, 4, 6))[0, 0]

        flat = torch.zeros(24, dtype=torch.float64)
        for _ in range(30):
            hessian = torch.autograd.functional.hessian(loss, flat)
            slope = torch.autograd.functional.jacobian(loss, flat)
            flat = flat - torch.linalg.pinv(hessian, hermitian=True, rtol=1e-12) @ slope
        weights[table, label] = flat.view(4, 6)
    found = descend(problems, 1e-15)
    for each in (found, weights):  # a common offset is free
        each[..., -1] -= each[..., -1].mean(2, keepdim=True)
    torch.testing.assert_close(found, weights, atol=1e-5, rtol=1e-5)


def test_a_table_finds_the_same_in_any_company():
    """Beside tables that need many more rounds, and alone."""
    problems = problems_of(n=60, axes=20, tables=3, ridge=1e-4)
    problems.ridge[0, ..., :-1] = 100.0
    together = descend(problems, 1e-12)
    for table in range(3):
        alone = descend(problems.take(torch.arange(3) == table), 1e-12)
        torch.testing.assert_close(together[[table]], alone, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
def test_training_rows_of_one_class_need_no_descent(classes):
    problems = problems_of(classes=classes)
    problems.labels[:, :, 0] = problems.train[:, None]
    problems.labels[:, :, 1:] = 0
    found = descend(problems, 1e-9)
    assert bool(found.isfinite().all())
    assert float(found[..., :-1].abs().max()) == 0
    assert bool((problems.logits(found).argmax(2) == 0).all())
