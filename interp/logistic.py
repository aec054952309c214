"""Which label does a row of numbers carry? Many ridge-penalised logistic regressions, fitted side by side.

Each fit minimises the sum of its rows' log losses plus |w|^2 / (2 strength), on columns of mean 0 and deviation 1 over
its own rows, with free offsets: what scikit-learn's `StandardScaler` and `LogisticRegression(C=strength)` do. Two
classes share one vector of weights; more have one each.

Fits to the same table (folds, label vectors) read the same rows: one matrix product a step serves them all, and the
standardising, which differs from fold to fold, is done to the weights. They descend together by limited-memory BFGS,
each with a step length of its own. The loss is strictly convex but for a common offset, so there is one answer.

Source: Liu & Nocedal, Math. Program. 45 (1989) 503.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot, pad

from interp.errors import ConfigError, DataError

MEMORY = 1 << 26
"""Default budget for working tensors, in bytes: about what the processor's caches hold."""

_REMEMBERED = 8
"""Steps from which the curvature is guessed."""

_MOST_STEPS = 1000

_HALVINGS = 30

_DECREASE = 1e-4
"""Share of what the slope promises by which a step must lower the loss."""

_TOLD = 16
"""Units in the last place of a column's largest value by which its training rows must differ to count."""

_ROUNDING = 500
"""Units in the last place of a loss that may be rounding."""


def held_out(
    x: Float[Tensor, "table row d"],
    codes: Int[Tensor, "label row"],
    fold: Int[Tensor, " row"],
    *,
    strength: float,
    tolerance: float = 1e-7,
    memory: int = MEMORY,
) -> Int[Tensor, "label table row"]:
    """The class that a fit to all other folds names for each row of each table, for several label vectors.

    `codes` are classes from 0. Fits are made in the tables' precision, float32 or float64. A fit ends where a step
    would lower the loss by less than `tolerance` a row; a fit that is hardly held (a strength above 1) is flatter, and
    goes on as much longer. Of classes that are equally likely, the first is named.
    """
    _check(x, strength)
    trains = fold != fold.unique()[:, None]
    if len(trains) < 2:
        raise DataError("rows of one fold leave none to fit to")
    classes = max(2, int(codes.max()) + 1)
    named = codes.new_empty(len(codes), *x.shape[:2])
    for some in _parts(x, len(trains) * len(codes) * classes, memory):
        fits = _fits(x[some], codes, trains, classes, strength)
        logits = fits.logits(_descend(fits, tolerance / max(1.0, strength))).masked_fill(
            ~fits.present[..., None], -torch.inf
        )
        for number, train in enumerate(trains):
            named[:, some.start : some.stop, ~train] = logits[:, number].argmax(2).transpose(0, 1)[..., ~train]
    return named


def fitted(
    x: Float[Tensor, "table row d"],
    codes: Int[Tensor, " row"],
    classes: int,
    *,
    strength: float,
    tolerance: float = 1e-9,
    memory: int = MEMORY,
) -> Float[Tensor, "table class d"]:
    """Weights of fits to all rows, in the units of `x`; nan for a class that no row has, opposite for two classes.

    `tolerance` is as in `held_out`; answers need less of it than directions, which are found in float64.
    """
    _check(x, strength)
    present, own = codes.unique(return_inverse=True)
    if len(present) < 2:
        raise DataError("a logistic regression needs rows of two classes")
    every = torch.ones(1, x.shape[1], dtype=torch.bool)
    found = x.new_full((len(x), classes, x.shape[2]), torch.nan, dtype=torch.float64)
    for some in _parts(x, len(present), memory):
        fits = _fits(x[some].double(), own[None], every, len(present), strength)
        weights = (_descend(fits, tolerance)[..., :-1] * fits.inverse[:, :, None, None])[:, 0, 0]
        found[some, present] = torch.cat([-weights, weights], 1) if len(present) == 2 else weights
    return found


def _check(x: Float[Tensor, "table row d"], strength: float) -> None:
    if not strength > 0:
        raise ConfigError(f"the strength of a fit, the inverse of its ridge, is above 0, not {strength}")
    if not bool(x.isfinite().all()):
        raise DataError("a logistic regression needs finite numbers; some of these are nan or infinite")


def _parts(x: Float[Tensor, "table row d"], columns: int, memory: int) -> Iterator[slice]:
    """Tables whose fits, with so many vectors of weights each, fit the budget together."""
    rows, width = x.shape[1:]
    each = 8 * (3 * rows * width + columns * ((2 * _REMEMBERED + 8) * width + 8 * rows))
    size = max(1, memory // each)
    for first in range(0, len(x), size):
        yield slice(first, min(first + size, len(x)))


@dataclass(frozen=True, eq=False)
class _Fits:
    """Fits to every label vector of every fold of every table.

    Weights are those of standardised columns, with the offset last. Of two classes only the second has weights, and
    the first's logit is 0.
    """

    x: Float[Tensor, "table row d"]
    mean: Float[Tensor, "table fold d"]
    inverse: Float[Tensor, "table fold d"]
    """One over the deviation; 0 for a column that does not vary."""
    train: Float[Tensor, "fold row"]
    labels: Float[Tensor, "fold label class row"]
    """1 where a training row has the class, else 0."""
    ridge: Float[Tensor, "fold label"]
    """What half the squared weights are multiplied by."""

    @property
    def present(self) -> Bool[Tensor, "fold label class"]:
        """Which classes the training rows have; the others' logits mean nothing."""
        return self.labels.any(3)

    @property
    def n(self) -> Float[Tensor, "fold one"]:
        """Training rows."""
        return self.train.sum(1, keepdim=True)

    def free(self, by_class: Float[Tensor, "... class row"]) -> Float[Tensor, "... free row"]:
        """The classes that have weights."""
        return by_class[..., 1:, :] if self.labels.shape[2] == 2 else by_class

    def start(self) -> Float[Tensor, "table fold label free weight"]:
        """No weights, and offsets that name each class as often as the training rows do."""
        often = (self.labels.sum(3) / self.n[..., None]).clamp(min=torch.finfo(self.x.dtype).tiny).log()
        often = self.free(often[..., None] - (often[..., :1, None] if often.shape[2] == 2 else 0))[..., 0]
        found = self.x.new_zeros(len(self.x), *often.shape, self.x.shape[2] + 1)
        found[..., -1] = often
        return found

    def logits(
        self, weights: Float[Tensor, "table fold label free weight"]
    ) -> Float[Tensor, "table fold label class row"]:
        """Linear in the weights."""
        own = weights[..., :-1] * self.inverse[:, :, None, None]
        found = (own.flatten(1, 3) @ self.x.mT).view(*own.shape[:-1], -1)
        found = found + (weights[..., -1] - (own * self.mean[:, :, None, None]).sum(-1))[..., None]
        return pad(found, (0, 0, 1, 0)) if self.labels.shape[2] == 2 else found

    def loss(
        self,
        weights: Float[Tensor, "table fold label free weight"],
        logits: Float[Tensor, "table fold label class row"],
    ) -> Float[Tensor, "table fold label"]:
        """The loss with its ridge."""
        surprise = (logits.logsumexp(3) * self.train[:, None]).sum(3) - (self.labels * logits).flatten(3).sum(3)
        return surprise + self.ridge / 2 * weights[..., :-1].square().flatten(3).sum(3)

    def gradient(
        self,
        weights: Float[Tensor, "table fold label free weight"],
        probability: Float[Tensor, "table fold label class row"],
    ) -> Float[Tensor, "table fold label free weight"]:
        """Of the loss with its ridge."""
        miss = self.free(probability * self.train[:, None, None] - self.labels)
        total = miss.sum(-1, keepdim=True)
        pulled = (miss.flatten(1, 3) @ self.x).view(*miss.shape[:-1], -1) - total * self.mean[:, :, None, None]
        pulled = pulled * self.inverse[:, :, None, None] + self.ridge[..., None, None] * weights[..., :-1]
        return torch.cat([pulled, total], -1)

    def curvature(
        self,
        probability: Float[Tensor, "table fold label class row"],
        direction: Float[Tensor, "table fold label free weight"],
        along: Float[Tensor, "table fold label class row"],
    ) -> Float[Tensor, "table fold label"]:
        """Second derivative of the loss along a direction, whose logits are `along`."""
        moved = probability * along
        spread = ((moved * along).sum(3) - moved.sum(3).square()) * self.train[:, None]
        return spread.sum(3) + self.ridge * direction[..., :-1].square().flatten(3).sum(3)


def _fits(
    x: Float[Tensor, "table row d"],
    codes: Int[Tensor, "label row"],
    trains: Bool[Tensor, "fold row"],
    classes: int,
    strength: float,
) -> _Fits:
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    x = x.double()
    x = x - x.mean(1, keepdim=True)  # far from 0, differences would be lost
    train = trains.double()
    eps = torch.finfo(x.dtype).eps
    n = train.sum(1)[:, None]
    mean = train @ x / n
    spread = [(x - mean[:, fold, None]).square_().mT @ train[fold] for fold in range(len(train))]
    variance = torch.stack(spread, 1) / n
    least = (n * eps).clamp(min=_TOLD * torch.finfo(kind).eps)
    constant = variance <= n * eps * variance + (least * x.abs().amax(1)[:, None]).square()
    labels = one_hot(codes, classes).mT.double() * train[:, None, None]
    # Two vectors that are opposite bear the penalty of one that is twice as long twice over.
    opposite = (labels.any(3).sum(2) == 2) & (classes > 2)
    inverse, ridge = variance.rsqrt().masked_fill(constant, 0.0), (1 + opposite.double()) / strength
    return _Fits(*(part.to(kind) for part in (x, mean, inverse, train, labels, ridge)))


def _descend(fits: _Fits, tolerance: float) -> Float[Tensor, "table fold label free weight"]:
    """Weights at the least loss."""
    weights = fits.start()
    logits = fits.logits(weights)
    probability, loss = logits.softmax(3), fits.loss(weights, logits)
    gradient = fits.gradient(weights, probability)
    steps: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=_REMEMBERED)
    moving = torch.ones_like(loss, dtype=torch.bool)
    for _ in range(_MOST_STEPS):
        direction = -_newton(gradient, steps)
        slope = _dot(direction, gradient)
        along = fits.logits(direction)
        curvature = fits.curvature(probability, direction, along)
        # A full step along a parabola lowers it by half of this.
        moving = moving & (slope.square() > 2 * tolerance * fits.n * curvature)
        if not bool(moving.any()):
            break
        length = (-slope / curvature).where(moving, 0.0)
        length, weights, logits, loss = _searched(fits, weights, logits, loss, direction, along, length, slope)
        probability, before = logits.softmax(3), gradient
        gradient = fits.gradient(weights, probability)
        step, bend = length[..., None, None] * direction, gradient - before
        bent = _dot(step, bend)
        steps.append((step, bend, (1 / bent).where(bent > 0, 0.0)))
    return weights


def _searched(
    fits: _Fits,
    weights: Float[Tensor, "table fold label free weight"],
    logits: Float[Tensor, "table fold label class row"],
    loss: Float[Tensor, "table fold label"],
    direction: Float[Tensor, "table fold label free weight"],
    along: Float[Tensor, "table fold label class row"],
    length: Float[Tensor, "table fold label"],
    slope: Float[Tensor, "table fold label"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Length, weights, logits and loss of steps that lower the loss enough (Armijo): by halves from `length` down."""

    def moved() -> tuple[Tensor, Tensor]:
        return weights + length[..., None, None] * direction, logits + length[..., None, None] * along

    new = moved()
    lower = fits.loss(*new)
    for _ in range(_HALVINGS):
        high = lower > loss * (1 + _ROUNDING * torch.finfo(loss.dtype).eps) + _DECREASE * length * slope
        if not bool(high.any()):
            break
        length = torch.where(high, length / 2, length)
        new = moved()
        lower = fits.loss(*new)
    return length, *new, lower


def _newton(
    gradient: Float[Tensor, "table fold label free weight"], steps: deque[tuple[Tensor, Tensor, Tensor]]
) -> Float[Tensor, "table fold label free weight"]:
    """The gradient over the curvature that the last steps have shown (the two loops of Nocedal's recursion)."""
    found, taken = gradient, []
    for step, bend, over in reversed(steps):
        share = over * _dot(step, found)
        found = found - share[..., None, None] * bend
        taken.append(share)
    if steps:
        _, bend, over = steps[-1]
        size = (1 / (over * _dot(bend, bend))).where(over > 0, 1.0)
        found = size[..., None, None] * found
    for (step, bend, over), share in zip(steps, reversed(taken), strict=True):
        found = found + (share - over * _dot(bend, found))[..., None, None] * step
    return found


def _dot(
    a: Float[Tensor, "table fold label free width"], b: Float[Tensor, "table fold label free width"]
) -> Float[Tensor, "table fold label"]:
    return torch.einsum("tflk,tflk->tfl", a.flatten(3), b.flatten(3))
