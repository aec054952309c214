"""Edits: what is replaced, where, and by what. Pure descriptions; `models.run` and `models.sweeps` carry them out.

Kinds of replacement follow the field's names: zero and mean ablation, resample and counterfactual patching (Zhang &
Nanda, arXiv 2309.16042), adding a direction (Turner et al., arXiv 2308.10248) and projecting one out (Arditi et al.,
arXiv 2406.11717).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, SupportsIndex, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError, PromptError
from interp.prompts import Position, Prompts
from interp.sites import Site, numbers_of
from interp.tensors import Activations


@runtime_checkable
class Value(Protocol):
    """What an edit writes. `old` holds the rows of a batch, its unit axis already narrowed to `units`."""

    def new(self, old: Tensor, site: Site, prompts: Int[Tensor, " row"], units: Int[Tensor, " unit"] | None) -> Tensor:
        """The replacement for `old`, of its shape; row r belongs to prompt `prompts[r]`."""
        ...


@dataclass(frozen=True, eq=False)
class Zero:
    """Zero ablation."""

    def new(self, old: Tensor, site: Site, prompts: Int[Tensor, " row"], units: Tensor | None) -> Tensor:  # noqa: D102
        return torch.zeros_like(old)


@dataclass(frozen=True, eq=False)
class Constant:
    """A fixed tensor, for instance a mean; it broadcasts to the site's tensor without its prompt axis."""

    tensor: Float[Tensor, ...]

    def new(self, old: Tensor, site: Site, prompts: Int[Tensor, " row"], units: Tensor | None) -> Tensor:  # noqa: D102
        whole = self.tensor.to(old)
        for axis, name in zip(range(-1, -len(site.axes), -1), reversed(site.axes[1:]), strict=True):
            if whole.ndim < -axis or whole.shape[axis] == 1:
                continue
            if units is not None and site.unit_axis == axis + len(site.axes):
                whole = whole.index_select(axis, units)
            elif name in ("pos", "query", "key"):
                whole = _cut(whole, axis, old)
        try:
            return whole.expand_as(old)
        except RuntimeError:
            raise ConfigError(f"a constant of shape {tuple(self.tensor.shape)} does not fit {site}") from None


@dataclass(frozen=True, eq=False)
class Copy:
    """The same place in another run: counterfactual patching, or resampling with `rows`.

    Prompt p takes the activations of the source's prompt `rows[p]` (p itself where rows is None), column by column.
    """

    source: Activations
    rows: Int[Tensor, " prompt"] | None = None

    def new(self, old: Tensor, site: Site, prompts: Int[Tensor, " row"], units: Tensor | None) -> Tensor:  # noqa: D102
        whole = self.source[site]
        index = prompts if self.rows is None else self.rows.to(prompts.device)[prompts]
        whole = whole.index_select(0, index.to(whole.device))
        if units is not None and site.unit_axis is not None:
            whole = whole.index_select(site.unit_axis, units.to(whole.device))
        for axis, name in enumerate(site.axes):
            if name in ("pos", "query", "key"):
                whole = _cut(whole, axis, old)
        return whole.to(old)

    def __post_init__(self) -> None:
        if isinstance(self.rows, np.ndarray):
            object.__setattr__(self, "rows", torch.from_numpy(self.rows))
        if self.rows is not None and not bool(((self.rows >= 0) & (self.rows < len(self.source.prompts))).all()):
            raise PromptError(f"rows of a patch's source are numbers from 0 to {len(self.source.prompts) - 1}")

    def __len__(self) -> int:
        return len(self.source.prompts) if self.rows is None else len(self.rows)


def _cut(whole: Tensor, axis: int, old: Tensor) -> Tensor:
    """The first columns of what is written, as many as there are."""
    if whole.shape[axis] < old.shape[axis]:
        raise PromptError("the source of a patch is shorter than the prompts it is patched into")
    return whole.narrow(axis, 0, old.shape[axis])


@dataclass(frozen=True, eq=False)
class Add:
    """Add `scale` times a vector, or each prompt's own, to the last axis."""

    vector: Float[Tensor, " d"] | Float[Tensor, "prompt d"]
    scale: float = 1.0

    def new(self, old: Tensor, site: Site, prompts: Int[Tensor, " row"], units: Tensor | None) -> Tensor:  # noqa: D102
        return old + self.scale * _each(self.vector, prompts, old)


@dataclass(frozen=True, eq=False)
class ProjectOut:
    """Remove the component along a vector of any length, or along each prompt's own, from the last axis."""

    vector: Float[Tensor, " d"] | Float[Tensor, "prompt d"]

    def __post_init__(self) -> None:
        if bool((self.vector.norm(dim=-1) == 0).any()):
            raise ConfigError("a vector of length 0 has no direction to project out")

    def new(self, old: Tensor, site: Site, prompts: Int[Tensor, " row"], units: Tensor | None) -> Tensor:  # noqa: D102
        unit = _each(self.vector / self.vector.norm(dim=-1, keepdim=True), prompts, old)
        return old - (old * unit).sum(-1, keepdim=True) * unit


def columns_at(
    places: Sequence[Position | Bool[Tensor, "prompt pos"] | None], prompts: Prompts
) -> Bool[Tensor, "place prompt pos"]:
    """The columns that edits at these places touch."""
    found = prompts.mask.repeat(len(places), 1, 1)
    named = [number for number, place in enumerate(places) if not (place is None or isinstance(place, Tensor))]
    if named:
        table = prompts.table([cast("Position", places[number]) for number in named])
        found[named] = torch.arange(prompts.tokens.shape[1]) == table.T[..., None]
    for number, place in enumerate(places):
        if isinstance(place, Tensor):
            found[number] &= place
    return found


def _each(vector: Tensor, prompts: Int[Tensor, " row"], old: Tensor) -> Tensor:
    """The vector of each row, with axes of length one up to the last."""
    if vector.shape[-1] != old.shape[-1]:
        raise ConfigError(f"a vector of {vector.shape[-1]} numbers does not fit a site of {old.shape[-1]}")
    if vector.ndim == 1:
        return vector.to(old)
    own = vector[prompts.to(vector.device)].to(old)
    return own.reshape(len(own), *[1] * (old.ndim - 2), own.shape[-1])


@dataclass(frozen=True, eq=False)
class Edit:
    """One replacement: at a site, at some positions, in some heads or neurons, by a value.

    `at` is a role, an index, a mask over prompts and columns, or None for every real token; at `pattern` it names the
    query. `units` are heads or neurons, None for all. A prompt without the position stays as it is.
    """

    site: Site
    value: Value
    at: Position | Bool[Tensor, "prompt pos"] | None = None
    units: SupportsIndex | Iterable[SupportsIndex] | None = None

    def __post_init__(self) -> None:
        if self.site.name == "logits":
            raise ConfigError("logits are read, not edited")
        if self.units is not None and self.site.unit_axis is None:
            raise ConfigError(f"site {self.site} has no heads or neurons to choose; leave out units")
        if isinstance(self.at, np.ndarray):
            object.__setattr__(self, "at", torch.from_numpy(self.at))
        if isinstance(self.value, Constant) and self.value.tensor.ndim >= len(self.site.axes):
            raise ConfigError(
                f"a constant at {self.site} has no prompt axis; for values of each prompt's own take Copy"
            )
        _ = self.numbers

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """The heads or neurons; None for all."""
        axis = self.site.unit_axis
        return None if self.units is None or axis is None else numbers_of(self.units, self.site.axes[axis])

    def check(self, prompts: Prompts) -> None:
        """Raise PromptError where the edit was not made for so many prompts and columns."""
        if isinstance(self.value, Copy) and len(self.value) != len(prompts):
            raise PromptError(f"the patch at {self.site} is made for {len(self.value)} prompts, not for {len(prompts)}")
        vector = self.value.vector if isinstance(self.value, Add | ProjectOut) else None
        if vector is not None and vector.ndim == 2 and len(vector) != len(prompts):
            raise PromptError(f"{len(vector)} vectors at {self.site} do not fit {len(prompts)} prompts")
        shape = prompts.tokens.shape
        if isinstance(self.at, Tensor) and (self.at.dtype != torch.bool or self.at.shape != shape):
            raise PromptError(
                f"a mask of columns is true or false for each of {shape[0]} prompts and {shape[1]} columns"
            )

    def where(self, prompts: Prompts) -> Bool[Tensor, "prompt pos"]:
        """The columns this edit touches."""
        return columns_at([self.at], prompts)[0]

    def apply(self, old: Tensor, touched: Bool[Tensor, "row pos"], prompts: Int[Tensor, " row"]) -> Tensor:
        """`old` with this edit carried out; `touched` and `prompts` say where, row by row."""
        site, axis = self.site, self.site.unit_axis
        units = None
        part = old
        if self.units is not None and axis is not None:
            chosen = self.numbers or ()
            if chosen and not 0 <= min(chosen) <= max(chosen) < old.shape[axis]:
                wrong = min(chosen) if min(chosen) < 0 else max(chosen)
                raise ConfigError(f"there is no {site.axes[axis]} {wrong} at {site}: it has {old.shape[axis]} of them")
            units = torch.tensor(chosen, device=old.device)
            part = old.index_select(axis, units)
        position = site.axes.index("query" if "query" in site.axes else "pos")
        shape = [1] * old.ndim
        shape[0], shape[position] = touched.shape
        mask = touched.to(old.device).reshape(shape)
        changed = torch.where(mask, self.value.new(part, site, prompts, units), part)
        return changed if units is None or axis is None else old.index_copy(axis, units, changed)
