"""In how many directions do vectors vary, and is it more than noise? Streamed moments, spectra and their null.

Any number of vectors is reduced to a count, a mean and a scatter matrix in float64, which hold no more than one chunk
of rows beside them. Centred and uncentred spectra are both given: a large common mean is the first uncentred component
whatever the vectors do around it.

Sources: merging of moments, Chan, Golub & LeVeque, Am. Stat. 37 (1983) 242; effective rank, Roy & Vetterli, "The
effective rank", EUSIPCO 2007; parallel analysis, Horn, Psychometrika 30 (1965) 179; the triangular factor of a Gaussian
matrix, Bartlett, Proc. R. Soc. Edinb. 53 (1933) 260; the area under the curve, Mann & Whitney, Ann. Math. Stat. 18
(1947) 50.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError, DataError

_ELEMENTS = 2**20
"""Numbers of a chunk in float64: 8 MiB."""

_BLOCK = 128

_EPS = torch.finfo(torch.float64).eps


@dataclass(eq=False)
class Moments:
    """Count, mean and scatter of vectors that come in chunks; `update` and `merge` change it in place.

    It takes 8 d^2 bytes a cell. Chunks are centred before they are squared, so a common mean costs no precision.
    """

    n: Int[Tensor, "*batch"]
    """Rows counted; a row with a nan in it is left out."""
    mean: Float[Tensor, "*batch d"]
    scatter: Float[Tensor, "*batch d d"]
    """Sum of outer products of the deviations from the mean."""

    @classmethod
    def empty(cls, batch: tuple[int, ...], width: int, *, device: torch.device | str = "cpu") -> Moments:
        """Moments of no vectors yet, of the given width, in every cell of the batch axes."""
        return cls(
            torch.zeros(batch, dtype=torch.int64, device=device),
            torch.zeros(*batch, width, dtype=torch.float64, device=device),
            torch.zeros(*batch, width, width, dtype=torch.float64, device=device),
        )

    @property
    def sd(self) -> Float[Tensor, "*batch d"]:
        """Standard deviation of each coordinate (divisor n); nan below two rows."""
        variance = self.scatter.diagonal(dim1=-2, dim2=-1) / self.n[..., None]
        return variance.sqrt().masked_fill(self.n[..., None] < 2, torch.nan)

    def update(self, rows: Float[Tensor, "*batch row d"]) -> None:
        """Count further vectors."""
        if rows.shape[:-2] != self.n.shape or rows.shape[-1] != self.mean.shape[-1]:
            raise DataError(f"rows of shape {tuple(rows.shape)} do not fit moments of {tuple(self.mean.shape)}")
        for cell, place in _places(rows):
            chunk = rows[cell][place].detach().to(self.mean)
            there = ~chunk.isnan().any(-1)
            if not bool(there.all()):
                chunk = chunk[there]
            if len(chunk):
                mean = chunk.mean(0)
                self._add(cell, len(chunk), mean, _gram(chunk - mean))

    def merge(self, other: Moments) -> None:
        """Count the vectors of other moments too."""
        if other.mean.shape != self.mean.shape:
            raise DataError(f"moments of {tuple(other.mean.shape)} do not fit moments of {tuple(self.mean.shape)}")
        for cell in np.ndindex(*self.n.shape):
            if int(other.n[cell]):
                self._add(cell, int(other.n[cell]), other.mean[cell].to(self.mean), other.scatter[cell].to(self.mean))

    def _add(self, cell: tuple[int, ...], n: int, mean: Float[Tensor, " d"], scatter: Float[Tensor, "d d"]) -> None:
        total = int(self.n[cell]) + n
        apart = mean - self.mean[cell]
        self.scatter[cell] += scatter
        self.scatter[cell].addr_(apart, apart, alpha=(total - n) * n / total)
        self.mean[cell] += apart * (n / total)
        self.n[cell] = total


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues and leading directions of vectors, about their mean and about zero. nan: fewer than two rows.

    A direction is nan where its eigenvalue is zero. It means little by itself where the next eigenvalue is close: the
    two then turn freely in their plane.
    """

    n: Int[Tensor, "*batch"]
    mean: Float[Tensor, "*batch d"]
    eigenvalues: Float[Tensor, "*batch component"]
    """Of the covariance (divisor n), largest first; zero where they are within float64's rounding of the largest."""
    uncentred_eigenvalues: Float[Tensor, "*batch component"]
    """Of the mean outer product of the vectors themselves. Their sum is E|x|^2."""
    variance: Float[Tensor, "*batch"]
    """Total variance, E|x - mean|^2."""
    mean_share: Float[Tensor, "*batch"]
    """|mean|^2 / E|x|^2: the part of the squared length that is one vector, the same for all."""
    directions: Float[Tensor, "*batch k d"]
    """Unit vectors, leading principal components about the mean; their dot product with the mean is not negative."""
    uncentred_directions: Float[Tensor, "*batch k d"]

    def cumulative(self, *, centred: bool = True) -> Float[Tensor, "*batch component"]:
        """Share of the total that the first components hold; nan where the total is zero."""
        values = self._values(centred)
        return values.cumsum(-1) / values.sum(-1, keepdim=True)

    def components_for(self, share: float = 0.8, *, centred: bool = True) -> Float[Tensor, "*batch"]:
        """Fewest components that hold this share of the total; nan where the total is zero."""
        if not 0 < share <= 1:
            raise ConfigError(f"a share of the variance lies above 0 and up to 1, not at {share}")
        held = self.cumulative(centred=centred)
        fewest = 1.0 + (held < share - 1e-12).sum(-1).to(held)
        return fewest.masked_fill(held.isnan().any(-1), torch.nan)

    def effective_rank(self, *, centred: bool = True) -> Float[Tensor, "*batch"]:
        """Number of equal eigenvalues that would have the same entropy: 1 to d. Noise has a large one: see the null."""
        return effective_rank(self._values(centred))

    def cosine(self, *, centred: bool = True) -> Float[Tensor, "*batch"]:
        """Cosine of the first direction with the mean, 0 to 1. Near 1 uncentred says only that the mean is large."""
        first = (self.directions if centred else self.uncentred_directions)[..., 0, :]
        return (first * self.mean).sum(-1) / self.mean.norm(dim=-1)

    def _values(self, centred: bool) -> Float[Tensor, "*batch component"]:
        return self.eigenvalues if centred else self.uncentred_eigenvalues


def spectrum(moments: Moments, top: int = 8) -> Spectrum:
    """Spectra of streamed moments in every cell, with `top` directions (at most the width)."""
    if top < 1:
        raise ConfigError(f"a spectrum has at least one direction, not {top}")
    batch, width = moments.n.shape, moments.mean.shape[-1]
    n = moments.n.to(moments.mean)[..., None]
    found = torch.full((2, *batch, width), torch.nan).to(moments.mean)
    ways = torch.full((2, *batch, min(top, width), width), torch.nan).to(moments.mean)
    square = moments.mean.square().sum(-1)
    variance = moments.scatter.diagonal(dim1=-2, dim2=-1).sum(-1) / n[..., 0]
    # Equal rows leave the rounding of their mean behind, which is no variance.
    variance = variance.masked_fill(variance <= (32 * _EPS) ** 2 * square, 0.0)
    defined = (moments.n >= 2) & variance.isfinite()
    for cell in np.ndindex(*batch):
        if bool(defined[cell]):
            mean, covariance = moments.mean[cell], moments.scatter[cell] / n[cell]
            values, columns = torch.linalg.eigh(covariance)
            values, vectors = values.flip(0), columns.T.flip(0)
            values = values.masked_fill((values <= width * _EPS * values[0]) | (variance[cell] == 0), 0.0)
            found[0, *cell], ways[0, *cell] = values, _leading(values, vectors, mean, top)
            # A root of the second moments: a large mean would round off the small eigenvalues of these themselves.
            root = torch.cat([values.sqrt()[:, None] * vectors, mean[None]])
            _, scales, vectors = torch.linalg.svd(root, full_matrices=False)
            raw = scales.square().masked_fill(scales <= width * _EPS * scales[0], 0.0)
            found[1, *cell], ways[1, *cell] = raw, _leading(raw, vectors, mean, top)
    return Spectrum(
        n=moments.n.clone(),
        mean=moments.mean.masked_fill(n == 0, torch.nan),
        eigenvalues=found[0],
        uncentred_eigenvalues=found[1],
        variance=variance.masked_fill(~defined, torch.nan),
        mean_share=(square / (square + variance)).masked_fill(~defined, torch.nan),
        directions=ways[0],
        uncentred_directions=ways[1],
    )


def effective_rank(values: Float[Tensor, "*batch component"]) -> Float[Tensor, "*batch"]:
    """Exponential of the entropy of values over their sum; nan where they are all zero.

    Roy and Vetterli take singular values; of a covariance these are the eigenvalues, of the data's matrix their roots.
    """
    return torch.special.entr(values / values.sum(-1, keepdim=True)).sum(-1).exp()


def parallel_analysis(
    sd: Float[Tensor, "*batch d"],
    n: int | Int[Tensor, "*batch"],
    *,
    draws: int = 20,
    seed: int = 0,
    level: float = 0.95,
) -> Float[Tensor, "*batch component"]:
    """Covariance eigenvalues that n rows of independent Gaussian columns of these deviations reach by chance.

    The quantile `level` over the draws, component by component; nan below two rows. Compare the k-th eigenvalue with
    the k-th of these, and stop at the first that is not above it. Rows must be independent: tokens of one prompt are
    fewer than they look. Eigenvalues of a draw come from its triangular factor, so no cost depends on n.
    """
    if draws < 1 or not 0 <= level <= 1:
        raise ConfigError(f"a null needs at least one draw and a level from 0 to 1, not {draws} and {level}")
    found = torch.full_like(sd, torch.nan, dtype=torch.float64)
    for cell in np.ndindex(*sd.shape[:-1]):
        spread = sd[cell].double().cpu()
        rows = n if isinstance(n, int) else int(n[cell])
        if rows < 2 or not bool(spread.isfinite().all()):
            continue
        rng = np.random.default_rng(seed)
        values = torch.zeros(draws, len(spread), dtype=torch.float64)
        for draw in range(draws):
            # The centred scatter of n rows is that of n - 1 rows about zero.
            factor = gaussian_triangle(rows - 1, len(spread), rng) * spread
            small = factor @ factor.T if len(factor) < len(spread) else factor.T @ factor
            values[draw, : len(factor)] = torch.linalg.eigvalsh(small).flip(0).clamp(min=0) / rows
        found[cell] = values.quantile(level, dim=0)
    return found


def gaussian_triangle(rows: int, width: int, rng: np.random.Generator) -> Float[Tensor, "smaller d"]:
    """Upper triangular factor R of a rows x width matrix of standard normals, drawn without the matrix (Bartlett).

    Its singular values are distributed as the matrix's own. It has min(rows, width) rows.
    """
    height = min(rows, width)
    factor = np.triu(rng.standard_normal((height, width)), 1)
    np.fill_diagonal(factor, np.sqrt(rng.chisquare(rows - np.arange(height))))
    return torch.from_numpy(factor)


def project(
    rows: Float[Tensor, "*batch row d"],
    directions: Float[Tensor, "*#batch k d"],
    mean: Float[Tensor, "*#batch d"] | None = None,
) -> Float[Tensor, "*batch row k"]:
    """Dot products of vectors, less `mean` if given, with directions, in float64; nan where a vector has nan."""
    batch = rows.shape[:-2]
    ways = directions.double().expand(*batch, *directions.shape[-2:])
    origin = None if mean is None else mean.to(ways).expand(*batch, mean.shape[-1])
    found = torch.empty(*rows.shape[:-1], ways.shape[-2], dtype=torch.float64, device=ways.device)
    for cell, place in _places(rows):
        chunk = rows[cell][place].to(ways)
        found[cell][place] = (chunk if origin is None else chunk - origin[cell]) @ ways[cell].T
    return found


def auc(positive: Float[Tensor, "positive ..."], negative: Float[Tensor, "negative ..."]) -> Float[Tensor, " ..."]:
    """Probability that a positive value exceeds a negative one, ties counting half: 0.5 is chance.

    nan is left out; where no value of a kind is left the answer is nan. After a search for the best direction on the
    same rows it is above 0.5 by chance.
    """
    cells = positive.shape[1:]
    if negative.shape[1:] != cells:
        raise DataError(f"positive values in cells of {tuple(cells)} do not fit negative ones in "
                        f"{tuple(negative.shape[1:])}")  # fmt: skip
    high = positive.reshape(len(positive), math.prod(cells)).T.double().contiguous()
    low = negative.reshape(len(negative), math.prod(cells)).T.double()
    highs, lows = (~high.isnan()).sum(-1), (~low.isnan()).sum(-1)
    low = low.masked_fill(low.isnan(), torch.inf).sort(-1).values
    beaten = torch.searchsorted(low, high)
    tied = torch.searchsorted(low, high, right=True).minimum(lows[:, None]) - beaten
    won = (beaten.double() + tied.double() / 2).masked_fill(high.isnan(), 0.0).sum(-1)
    return (won / (highs * lows)).reshape(cells)


def _places(rows: Float[Tensor, "*batch row d"]) -> Iterator[tuple[tuple[int, ...], slice]]:
    """Cells and chunks of their rows, small enough to be copied in float64."""
    step = max(1, _ELEMENTS // max(1, rows.shape[-1]))
    for cell in np.ndindex(*rows.shape[:-2]):
        for first in range(0, rows.shape[-2], step):
            yield cell, slice(first, first + step)


def _gram(rows: Float[Tensor, "row d"]) -> Float[Tensor, "d d"]:
    """rows.T @ rows, block by block above the diagonal: half the work."""
    width = rows.shape[1]
    found = rows.new_empty(width, width)
    for first in range(0, width, _BLOCK):
        block = rows[:, first : first + _BLOCK].T @ rows[:, first:]
        found[first : first + _BLOCK, first:] = block
        found[first:, first : first + _BLOCK] = block.T
    return found


def _leading(
    values: Float[Tensor, " d"], vectors: Float[Tensor, "d d"], mean: Float[Tensor, " d"], top: int
) -> Float[Tensor, "k d"]:
    """The first eigenvectors, turned towards the mean; nan where the eigenvalue is zero."""
    ways = vectors[:top]
    ways = torch.where((ways @ mean < 0)[:, None], -ways, ways)
    return ways.masked_fill((values[:top] <= 0)[:, None], torch.nan)


def limited_rank(contexts: int, n: int, width: int) -> str:
    """What to say where repeated contexts bound the rank; empty where they do not.

    A causal model gives equal vectors for equal contexts, so `n` vectors from few distinct contexts have a rank of at
    most that many, and one less about their mean."""
    if contexts >= min(n, width + 1):
        return ""
    removed = "; centring removed the contrast" if contexts == 1 else ""
    return (
        f"{contexts} distinct context{'s' if contexts != 1 else ''} at this position among {n} prompts: "
        f"rank <= {contexts - 1} about the mean{removed}"
    )
