"""Which label does a row of numbers carry? Many ridge-penalised logistic regressions, fitted side by side.

Each fit minimises the sum of its rows' log losses plus |w|^2 / (2 strength), on columns of mean 0 and deviation 1 over
its own rows, with free offsets: what scikit-learn's `StandardScaler` and `LogisticRegression(C=strength)` do. Two
classes share one vector of weights; more have one each.

The rows of a table are first turned to their principal axes. The ridge keeps weights within the span of the rows, so
there are never more axes than rows, and nothing is lost; all labels of a table share the turn. It costs the third power
of the axes: tables with many are left to scikit-learn, one fit after the other and to its own tolerance.

Source: Hastie & Tibshirani, Biostatistics 5 (2004) 329, for the turn.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import one_hot, pad

from interp.errors import ConfigError, DataError
from interp.softmax import Problems, descend

Item = TypeVar("Item")

MEMORY = 1 << 25
"""Default budget for working tensors, in bytes; a larger one leaves the processor's caches and is no faster."""

_MOST_AXES = 512
"""Most axes that rows are turned to. On rows like noise the turn costs more than it spares from some 300 axes on, on
activations, whose axes are very unequal, from some 800 on."""

_EPS = torch.finfo(torch.float64).eps

_COPIES = 20
"""Tensors of the size of weights or of logits that a descent holds."""


def held_out(
    x: Float[Tensor, "table row d"],
    codes: Int[Tensor, "label row"],
    fold: Int[Tensor, " row"],
    *,
    strength: float,
    tolerance: float = 1e-9,
    memory: int = MEMORY,
) -> Int[Tensor, "label table row"]:
    """The class that a fit to all other folds names for each row of each table, for several label vectors.

    `codes` are classes from 0. A fit ends where its next step would lower the loss by less than `tolerance` a row. Of
    classes that are equally likely, the first is named.
    """
    _check(x, strength)
    classes = int(codes.max()) + 1
    trains = fold != fold.unique()[:, None]
    if len(trains) < 2:
        raise DataError("rows of one fold leave none to fit to")
    named = codes.new_empty(len(codes), *x.shape[:2])
    cells = [(table, number) for table in range(len(x)) for number in range(len(trains))]
    if _large(x):
        for table, number in cells:
            train = trains[number]
            z = _standard(x[table], train)[0]
            named[:, table, ~train] = torch.stack([_named(z, own, train, strength) for own in codes])
        return named
    for some in _parts(cells, _bytes(x, len(codes) * classes), memory):
        designs = [_design(_standard(x[table], trains[number])[0], trains[number]) for table, number in some]
        problems = _stacked(designs, codes, trains[[number for _, number in some]], classes, strength)
        logits = problems.logits(descend(problems, tolerance)).masked_fill(~problems.present[..., None], -torch.inf)
        for (table, number), found in zip(some, logits.argmax(2), strict=True):
            named[:, table, ~trains[number]] = found[:, ~trains[number]]
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

    `tolerance` is as in `held_out`.
    """
    _check(x, strength)
    present = one_hot(codes, classes).any(0)
    if int(present.sum()) < 2:
        raise DataError("a logistic regression needs rows of two classes")
    every = torch.ones(x.shape[1], dtype=torch.bool)
    found = x.new_full((len(x), classes, x.shape[2]), torch.nan, dtype=torch.float64)
    for some in _parts(range(len(x)), _bytes(x, classes), memory):
        standard = [_standard(x[table], every) for table in some]
        if _large(x):
            weights = [torch.from_numpy(_fit(z, codes, strength).coef_) for z, _ in standard]
        else:
            designs = [_design(z, every) for z, _ in standard]
            problems = _stacked(designs, codes[None], every.expand(len(some), -1), classes, strength)
            turned = descend(problems, tolerance)[:, 0, present, :-1]
            weights = [own @ design.basis(z).T for own, design, (z, _) in zip(turned, designs, standard, strict=True)]
        for table, own, (_, scale) in zip(some, weights, standard, strict=True):
            found[table, present] = _opposite(own) / scale
    return found


def _opposite(weights: Float[Tensor, "class d"]) -> Float[Tensor, "present d"]:
    """Of two classes the difference, once for each."""
    if len(weights) > 2:
        return weights
    shared = weights[0] if len(weights) == 1 else weights[1] - weights[0]
    return torch.stack([-shared, shared])


def _large(x: Float[Tensor, "table row d"]) -> bool:
    return min(x.shape[1:]) > _MOST_AXES


def _fit(z: Float[Tensor, "row d"], codes: Int[Tensor, " row"], strength: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as here, a fit that is not quite there is still a fit
        return LogisticRegression(C=strength, max_iter=200).fit(z.float().numpy(), codes.numpy())


def _named(
    z: Float[Tensor, "row d"], codes: Int[Tensor, " row"], train: Bool[Tensor, " row"], strength: float
) -> Int[Tensor, " held"]:
    """The classes that scikit-learn names for rows it was not fitted to."""
    own = codes[train]
    if len(own.unique()) < 2:
        return own[:1].expand(int((~train).sum()))
    return torch.from_numpy(_fit(z[train], own, strength).predict(z[~train].float().numpy()))


def _check(x: Float[Tensor, "table row d"], strength: float) -> None:
    if not strength > 0:
        raise ConfigError(f"the strength of a fit, the inverse of its ridge, is above 0, not {strength}")
    if not bool(x.isfinite().all()):
        raise DataError("a logistic regression needs finite numbers; some of these are nan or infinite")


def _bytes(x: Float[Tensor, "table row d"], columns: int) -> int:
    """Bytes that the fits of one table take while they descend."""
    rows, width = x.shape[1:]
    axes = min(rows, width)
    return 8 * (rows * width + 2 * rows * axes + _COPIES * columns * max(rows, axes))


def _parts(items: Sequence[Item], bytes_each: int, memory: int) -> Iterator[Sequence[Item]]:
    size = max(1, memory // bytes_each)
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _standard(
    x: Float[Tensor, "row d"], train: Bool[Tensor, " row"]
) -> tuple[Float[Tensor, "row d"], Float[Tensor, " d"]]:
    """Rows less the mean of the training ones and over their deviation, and that deviation: 1 where it is rounding."""
    weight = train.double() / train.sum()
    z = x.double()
    mean = weight @ z
    z = z - mean
    variance = weight @ z.square()
    n = int(train.sum())
    constant = variance <= n * _EPS * variance + (n * mean * _EPS).square()
    scale = variance.sqrt().masked_fill(constant, 1.0)
    return z.div_(scale), scale


@dataclass(frozen=True, eq=False)
class _Design:
    """All rows of a table on the principal axes of its training rows."""

    rows: Float[Tensor, "row axis"]
    sizes: Float[Tensor, " axis"]
    """Sum of squares over the training rows."""
    train: Bool[Tensor, " row"]
    mix: Float[Tensor, "part axis"]
    """The axes, as sums of features or, where these are more, of training rows."""

    def basis(self, z: Float[Tensor, "row d"]) -> Float[Tensor, "d axis"]:
        """The axes in the space of the standardised rows that the design was made from."""
        return z[self.train].T @ self.mix if _wide(z, self.train) else self.mix


def _wide(z: Float[Tensor, "row d"], train: Bool[Tensor, " row"]) -> bool:
    return int(train.sum()) < z.shape[1]


def _design(z: Float[Tensor, "row d"], train: Bool[Tensor, " row"]) -> _Design:
    own = z[train]
    if not _wide(z, train):
        sizes, mix = torch.linalg.eigh(own.T @ own)
        return _Design(z @ mix, sizes.clamp(min=0), train, mix)
    products = z @ own.T
    sizes, vectors = torch.linalg.eigh(products[train])
    real = sizes > len(own) * _EPS * sizes[-1]
    mix = vectors * sizes.rsqrt().where(real, 0.0)
    return _Design(products @ mix, sizes.where(real, 0.0), train, mix)


def _stacked(
    designs: Sequence[_Design],
    codes: Int[Tensor, "label row"],
    trains: Bool[Tensor, "table row"],
    classes: int,
    strength: float,
) -> Problems:
    """Tables with the same label vectors; one that has fewer axes than others gets empty ones."""
    width = max(len(one.sizes) for one in designs)
    rows = torch.stack([pad(pad(one.rows, (0, width - len(one.sizes))), (0, 1), value=1.0) for one in designs])
    sizes = torch.stack([pad(one.sizes, (0, width - len(one.sizes))) for one in designs])
    train = trains.double()
    labels = one_hot(codes, classes).mT.double() * train[:, None, None]
    # The one vector of two classes is twice the length of two opposite ones, which so bear half its penalty.
    ridge = (1 + (labels.any(3).sum(2) == 2).double()) / strength
    ridge = pad(ridge[..., None].expand(-1, -1, width), (0, 1))
    return Problems(rows, torch.cat([sizes, train.sum(1, keepdim=True)], 1), labels, train, ridge)
