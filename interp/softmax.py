"""Where is the least loss of softmax regressions with a ridge? Many of one shape are descended side by side.

A table is a set of rows on orthogonal axes; its problems are label vectors over these rows. On such axes the loss's
curvature, were it the same at every row, is a Kronecker product of classes and axes whose second factor is diagonal:
the metric in which conjugate gradients descend. The loss is strictly convex but for a common offset, so there is one
answer.

Sources: conjugate gradients, Polak & Ribiere, Rev. Fr. Inform. Rech. Oper. 3-R1 (1969) 35, begun anew as Powell, Math.
Program. 12 (1977) 241, asks; the product, Martens & Grosse (arXiv 1503.05671).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_STEPS = 20
"""Steps after which tables without an open problem are dropped and directions are forgotten."""

_ROUNDS = 10
"""A problem that is still open after so many rounds is taken as it is."""

_HALVINGS = 30

_DECREASE = 1e-4
"""Share of what the slope promises by which a step must lower the loss."""

_ROUNDING = 1e-13
"""Share of a loss that may be rounding."""


@dataclass(frozen=True, eq=False)
class Problems:
    """Softmax regressions: tables of rows with several label vectors each.

    The last axis is the offset, 1 in every row; on the others the training rows are orthogonal. The loss is summed over
    training rows.
    """

    rows: Float[Tensor, "table row axis"]
    sizes: Float[Tensor, "table axis"]
    """Sum of squares over the training rows."""
    labels: Float[Tensor, "table label class row"]
    """1 where a training row has the class, else 0."""
    train: Float[Tensor, "table row"]
    """1 for training rows, else 0."""
    ridge: Float[Tensor, "table label axis"]
    """What half the squared weights are multiplied by; 0 for the offset."""

    @property
    def n(self) -> Float[Tensor, "table 1"]:
        """Training rows."""
        return self.train.sum(1, keepdim=True)

    @property
    def present(self) -> Bool[Tensor, "table label class"]:
        """Which classes the training rows have; the others' logits mean nothing."""
        return self.labels.any(3)

    def take(self, kept: Bool[Tensor, " table"]) -> Problems:
        """Some of the tables."""
        return Problems(*(getattr(self, field.name)[kept] for field in fields(self)))

    def logits(self, weights: Float[Tensor, "table label class axis"]) -> Float[Tensor, "table label class row"]:
        """Products of weights and rows."""
        return (weights.flatten(1, 2) @ self.rows.mT).view(*weights.shape[:3], -1)

    def start(self) -> Float[Tensor, "table label class axis"]:
        """No weights, and offsets that name each class as often as the training rows do."""
        weights = self.rows.new_zeros(*self.labels.shape[:3], self.rows.shape[2])
        often = self.labels.sum(3) / self.n[..., None]
        weights[..., -1] = often.clamp(min=torch.finfo(often.dtype).tiny).log()
        return weights

    def loss(
        self, weights: Float[Tensor, "table label class axis"], logits: Float[Tensor, "table label class row"]
    ) -> tuple[Float[Tensor, "table label"], Float[Tensor, "table label class row"]]:
        """The loss with its ridge, and the probabilities of training rows (0 in the others)."""
        top = logits.amax(2, keepdim=True)
        odds = (logits - top).exp_()
        total = odds.sum(2, keepdim=True)
        surprise = ((total.log() + top)[:, :, 0] * self.train[:, None]).sum(2) - _dot(self.labels, logits)
        penalty = _dot(self.ridge[:, :, None] * weights, weights) / 2
        return surprise + penalty, odds.mul_(self.train[:, None, None] / total)

    def gradient(
        self, weights: Float[Tensor, "table label class axis"], probability: Float[Tensor, "table label class row"]
    ) -> Float[Tensor, "table label class axis"]:
        """Gradient of the loss with its ridge."""
        pulled = ((probability - self.labels).flatten(1, 2) @ self.rows).view_as(weights)
        return pulled.addcmul_(self.ridge[:, :, None], weights)

    def curvature(
        self,
        probability: Float[Tensor, "table label class row"],
        direction: Float[Tensor, "table label class axis"],
        along: Float[Tensor, "table label class row"],
    ) -> Float[Tensor, "table label"]:
        """Second derivative of the loss along a direction, whose logits are `along`."""
        moved = probability * along
        spread = _dot(moved, along) - moved.sum(2).square().sum(2)
        return spread + _dot(self.ridge[:, :, None] * direction, direction)


def descend(problems: Problems, tolerance: float) -> Float[Tensor, "table label class axis"]:
    """Weights at the least loss: where one more step would lower it by no more than `tolerance` a training row."""
    weights = problems.start()
    found, left = torch.empty_like(weights), torch.arange(len(weights))
    for _ in range(_ROUNDS):
        weights, still = _round(problems, weights, tolerance)
        found[left] = weights
        if not bool(still.any()):
            break
        left, weights, problems = left[still], weights[still], problems.take(still)
    return found


@dataclass(frozen=True, eq=False)
class _Point:
    """Weights and what follows from them."""

    weights: Float[Tensor, "table label class axis"]
    logits: Float[Tensor, "table label class row"]
    loss: Float[Tensor, "table label"]
    probability: Float[Tensor, "table label class row"]


def _round(
    problems: Problems, weights: Float[Tensor, "table label class axis"], tolerance: float
) -> tuple[Float[Tensor, "table label class axis"], Bool[Tensor, " table"]]:
    """Some conjugate steps, and which tables have problems that are still on their way. Ended ones stay in place."""
    logits = problems.logits(weights)
    point = _Point(weights, logits, *problems.loss(weights, logits))
    gradient = problems.gradient(weights, point.probability)
    moving = torch.ones_like(point.loss, dtype=torch.bool)
    direction, before, last = torch.zeros_like(weights), gradient, torch.ones_like(point.loss)
    for _ in range(_STEPS):
        uphill = _uphill(problems, point.probability, gradient)
        size = _dot(gradient, uphill)
        moving = size > 2 * tolerance * problems.n  # a step lowers a parabola by half of this
        if not bool(moving.any()):
            break
        kept = (_dot(uphill, gradient - before) / last).clamp(min=0).where(moving, 0.0)
        kept = kept.where(kept * _dot(direction, gradient) < size, 0.0)  # else it would lead up
        direction = torch.addcmul(-uphill, kept[..., None, None], direction)
        before, last = gradient, size
        point = _searched(problems, point, direction, _dot(direction, gradient), moving)
        gradient = problems.gradient(point.weights, point.probability)
    return point.weights, moving.any(1)


def _uphill(
    problems: Problems,
    probability: Float[Tensor, "table label class row"],
    gradient: Float[Tensor, "table label class axis"],
) -> Float[Tensor, "table label class axis"]:
    """The gradient over the loss's curvature, were it the mean one at every row."""
    each = probability.flatten(0, 1)
    curvature = torch.diag_embed(probability.sum(3)) - (each @ each.mT).view(*probability.shape[:3], -1)
    values, turn = torch.linalg.eigh(curvature / problems.n[..., None, None])
    # Classes that all move together change nothing: there is no curvature, and no gradient to divide by it.
    values = values.clamp(min=1e-12)[..., None]
    sizes = values * problems.sizes[:, None, None] + problems.ridge[:, :, None]
    return turn @ ((turn.mT @ gradient) / sizes)


def _searched(
    problems: Problems,
    point: _Point,
    direction: Float[Tensor, "table label class axis"],
    slope: Float[Tensor, "table label"],
    moving: Bool[Tensor, "table label"],
) -> _Point:
    """Along the direction to where its parabola is least, or by halves as near as lowers the loss enough (Armijo)."""
    along = problems.logits(direction)
    length = (-slope / problems.curvature(point.probability, direction, along)).where(moving, 0.0)
    new = _moved(problems, point, direction, along, length)
    for _ in range(_HALVINGS):
        high = new.loss > point.loss * (1 + _ROUNDING) + _DECREASE * length * slope
        if not bool(high.any()):
            break
        length = torch.where(high, length / 2, length)
        new = _moved(problems, point, direction, along, length)
    return new


def _moved(
    problems: Problems,
    point: _Point,
    direction: Float[Tensor, "table label class axis"],
    along: Float[Tensor, "table label class row"],
    length: Float[Tensor, "table label"],
) -> _Point:
    weights = torch.addcmul(point.weights, length[..., None, None], direction)
    logits = torch.addcmul(point.logits, length[..., None, None], along)
    return _Point(weights, logits, *problems.loss(weights, logits))


def _dot(a: Float[Tensor, "table label *any"], b: Float[Tensor, "table label *any"]) -> Float[Tensor, "table label"]:
    return torch.einsum("tlk,tlk->tl", a.flatten(2), b.flatten(2))
