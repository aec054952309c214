"""What did fine-tuning change, module by module? Size and rank of the difference of two sets of weights.

Effective rank: Roy & Vetterli, "The effective rank" (EUSIPCO 2007); stable rank: Rudelson & Vershynin (arXiv
math/0503442); low-rank updates B A: Hu et al., "LoRA" (arXiv 2106.09685). A full-rank change is what noise gives too:
beside each effective rank stands that of a Gaussian matrix of the same shape. A large change need not matter to any
prompt, and a small one may.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ModelError
from interp.spectra import effective_rank, gaussian_triangle

_NUMBERS = ("norm", "before_norm", "relative", "spectral_norm", "top_share", "stable_rank", "effective_rank",
            "random_rank")  # fmt: skip


@dataclass(frozen=True, eq=False)
class WeightChanges:
    """The change of each module. nan: the ranks of vectors (biases, norm weights), and changes that are not finite.

    Weights stored in bfloat16 are rounded, and the rounding is noise of full rank: a change of rank 2 and relative norm
    0.7 % then has an effective rank of 290 in a 768 x 768 matrix. Its stable rank stays below 2.
    """

    modules: tuple[str, ...]
    """Names; matrices that are held in a stack (heads, experts) are one module each: W_Q[0], W_Q[1] ..."""
    shapes: tuple[tuple[int, ...], ...]
    """What was compared, without added rows."""
    added_rows: Int[Tensor, " module"]
    """Rows that only the later weights have (a grown vocabulary); they are not part of the change."""
    before_norm: Float[Tensor, " module"]
    norm: Float[Tensor, " module"]
    """Frobenius norm of the change."""
    spectral_norm: Float[Tensor, " module"]
    """Largest singular value of the change."""
    effective_rank: Float[Tensor, " module"]
    """Exponential of the entropy of the change's singular values over their sum; nan where nothing changed."""
    random_rank: Float[Tensor, " module"]
    """The same of a Gaussian matrix of that shape, one draw: the control, what a change without structure gives."""

    @property
    def relative(self) -> Float[Tensor, " module"]:
        """Norm of the change over the norm before."""
        return self.norm / self.before_norm

    @property
    def top_share(self) -> Float[Tensor, " module"]:
        """Share of the change's squared norm in its first singular direction."""
        return (self.spectral_norm / self.norm).square()

    @property
    def stable_rank(self) -> Float[Tensor, " module"]:
        """Squared Frobenius norm over squared spectral norm: `top_share` turned over, never above the rank."""
        return (self.norm / self.spectral_norm).square()

    def to_frame(self) -> pd.DataFrame:
        """One row for each module."""
        shapes = [" x ".join(map(str, shape)) for shape in self.shapes]
        about = {"module": self.modules, "shape": shapes, "added_rows": self.added_rows.numpy()}
        return pd.DataFrame(about | {name: getattr(self, name).numpy() for name in _NUMBERS})


@dataclass(frozen=True, eq=False)
class LoraSpectrum:
    """Singular values and vectors of a low-rank update."""

    values: Float[Tensor, " component"]
    """Largest first, as many as the smallest of the rank and the two widths."""
    left: Float[Tensor, "out component"]
    """What the update writes."""
    right: Float[Tensor, "component in"]
    """What it reads. A pair's sign is arbitrary: only left and right together have one."""

    def to_frame(self) -> pd.DataFrame:
        """One row for each component."""
        share = (self.values / self.values.norm()).square()
        return pd.DataFrame(
            {"component": range(len(self.values)), "value": self.values.numpy(), "share": share.numpy()}
        )


def weight_changes(before: Mapping[str, Tensor], after: Mapping[str, Tensor], *, seed: int = 0) -> WeightChanges:
    """Compare two state dicts. Integer entries are not compared.

    Raises ModelError where a module is in one only, or where shapes differ by more than rows that were added.
    """
    lonely = sorted(before.keys() ^ after.keys())
    if lonely:
        side = "before" if lonely[0] in before else "after"
        others = f" ({len(lonely)} modules are in one only)" if len(lonely) > 1 else ""
        raise ModelError(f"the weights {side} alone have {lonely[0]}{others}; compare two forms of one model")
    modules, shapes, added, numbers = [], [], [], []
    random: dict[tuple[int, int], float] = {}
    for name, old, new, grown in _pairs(before, after):
        modules.append(name)
        shapes.append(tuple(old.shape))
        added.append(grown)
        if old.ndim < 2:
            change = new.double() - old.double()
            numbers.append([float(old.double().norm()), float(change.norm()), *[torch.nan] * 3])
            continue
        values, size = _change(old, new)
        small, large = sorted(old.shape)
        if (large, small) not in random:
            control = torch.linalg.svdvals(gaussian_triangle(large, small, np.random.default_rng(seed)))
            random[large, small] = float(effective_rank(control))
        numbers.append([size, *map(float, (values.norm(), values[0], effective_rank(values))), random[large, small]])
    table = torch.tensor(numbers, dtype=torch.float64).reshape(-1, 5)
    return WeightChanges(tuple(modules), tuple(shapes), torch.tensor(added, dtype=torch.int64), *table.unbind(1))


def lora_spectrum(a: Float[Tensor, "r in"], b: Float[Tensor, "out r"], scale: float = 1.0) -> LoraSpectrum:
    """Singular value decomposition of scale * B A, which is never formed: that of a core of the rank's size."""
    write, down = torch.linalg.qr(b.detach().double())
    read, up = torch.linalg.qr(a.detach().double().T)
    left, values, right = torch.linalg.svd(scale * down @ up.T, full_matrices=False)
    return LoraSpectrum(values.cpu(), (write @ left).cpu(), (right @ read.T).cpu())


def _pairs(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor, int]]:
    """Name, weights before, the same rows after, and the number of added rows; stacks taken apart."""
    for name, old in before.items():
        new = after[name]
        if not (old.is_floating_point() and new.is_floating_point()):
            continue
        old, new = old.detach(), new.detach()
        grown = len(new) - len(old) if old.ndim and new.ndim else 0
        if old.ndim != new.ndim or old.shape[1:] != new.shape[1:] or grown < 0 or (grown and old.ndim > 2):
            raise ModelError(f"{name} has the shape {tuple(old.shape)} before and {tuple(new.shape)} after; "
                             "only rows that were added can be left out")  # fmt: skip
        new = new[: len(old)] if grown else new
        if not old.numel():
            continue
        for place in np.ndindex(*old.shape[:-2]):
            index = f"[{', '.join(map(str, place))}]" if place else ""
            yield name + index, old[place], new[place], grown


def _change(
    old: Float[Tensor, "row column"], new: Float[Tensor, "row column"]
) -> tuple[Float[Tensor, " value"], float]:
    """Singular values of the change and the norm before, in float64 without a whole copy of either matrix.

    Rows are folded into a triangular factor as they come, which keeps the singular values (Demmel et al., arXiv
    0808.2664), and small ones to full precision, as a Gram matrix would not.
    """
    if old.shape[0] < old.shape[1]:
        old, new = old.T, new.T
    width = old.shape[1]
    core = torch.zeros(0, width, dtype=torch.float64, device=old.device)
    squares = 0.0
    for part, later in zip(old.split(2 * width), new.split(2 * width), strict=True):
        start = part.double()
        squares += float(start.square().sum())
        core = torch.cat([core, later.to(start) - start])
        if len(core) > 2 * width:
            core = torch.linalg.qr(core, mode="r")[1]
    finite = bool(core.isfinite().all())
    values = torch.linalg.svdvals(core).cpu() if finite else torch.full((width,), torch.nan, dtype=torch.float64)
    return values, squares**0.5
