"""The cells of a grid: the layers of one site by positions, heads or neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.errors import ConfigError, PromptError
from interp.models.edits import Edit, Value
from interp.models.features import NAME, feature_sites
from interp.models.load import HookedTransformer
from interp.prompts import Position, Prompts
from interp.sites import Site, every, numbers_of

Axis = Literal["position", "head", "neuron", "feature"]


@dataclass(frozen=True)
class Places:
    """Where a site is edited, cell by cell."""

    sites: tuple[Site, ...]
    axis: Axis
    columns: tuple[Position, ...]
    """Positions, or numbers of heads or neurons."""
    at: Position | None = None
    """The one position at which heads or neurons are edited; None for the whole prompt."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names along the second axis."""
        return tuple(map(str, self.columns))

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers along the first axis."""
        return tuple(site.layer for site in self.sites)

    def cells(self, values: Sequence[Value]) -> list[list[Edit]]:
        """One cell for each value, layer and column, in this order."""
        return [[self.edit(site, column, value)] for value in values for site in self.sites for column in self.columns]

    def edit(self, site: Site, column: Position, value: Value) -> Edit:
        """The edit of one cell."""
        if self.axis == "position":
            return Edit(site, value, at=column)
        return Edit(site, value, at=self.at, units=int(column))

    def absent(self, prompts: Prompts) -> Bool[Tensor, "prompt column"]:
        """True where a prompt lacks a cell's position."""
        if self.axis == "position":
            return prompts.table(self.columns) < 0
        if self.at is None:
            return torch.zeros(len(prompts), len(self.columns), dtype=torch.bool)
        return (prompts.columns(self.at) < 0)[:, None].expand(-1, len(self.columns))


def places(
    model: HookedTransformer,
    prompts: Prompts,
    site: str,
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[Position] | None = None,
    units: Sequence[int] | None = None,
    at: Position | None = None,
) -> Places:
    """The grid of a site: by positions for streams and block outputs, by heads or neurons for the others.

    By default all layers, and every column of the longest prompt or every head or neuron.
    """
    if site == "logits":
        raise ConfigError("logits are read, not edited")
    sites = tuple(every([site], int(model.cfg.n_layers), layers))
    unit_axis = sites[0].unit_axis
    if unit_axis is None:
        if units is not None:
            raise ConfigError(f"{site} has no heads or neurons; choose positions instead of units")
        if at is not None:
            raise ConfigError(f"{site} has no heads or neurons; choose positions instead of at")
        chosen = tuple(range(prompts.tokens.shape[1]) if positions is None else positions)
        _check(chosen, prompts)
        return Places(sites, "position", chosen)
    if positions is not None:
        raise ConfigError(f"{site} is edited by head or neuron; choose one position with at instead of positions")
    kind = cast("Axis", sites[0].axes[unit_axis])
    if at is not None:
        _check([at], prompts)
    count = unit_count(model, site)
    numbers = range(count) if units is None else numbers_of(units, kind)
    wrong = [number for number in numbers if not 0 <= number < count]
    if wrong:
        raise ConfigError(f"there is no {kind} {wrong[0]} at {site}: a layer has {count} of them")
    return Places(sites, kind, tuple(numbers), at)


def _check(positions: Sequence[Position], prompts: Prompts) -> None:
    missing = (prompts.table(positions) < 0).all(0).tolist()
    wrong = [one for one, nowhere in zip(positions, missing, strict=True) if nowhere and not isinstance(one, str)]
    if wrong:
        raise PromptError(f"no prompt has a token {wrong[0]}: the longest has {prompts.tokens.shape[1]}")


def unit_count(model: HookedTransformer, site: str) -> int:
    """How many heads, neurons or features a site has in each layer, or in the layer that has most."""
    cfg = model.cfg
    if site == NAME:
        return max(feature_sites(model).sizes)
    if Site(site, 0).axes[Site(site, 0).unit_axis or 0] == "neuron":
        return int(cfg.d_mlp or 4 * cfg.d_model)
    grouped = getattr(cfg, "n_key_value_heads", None)
    return int(grouped if grouped and site in ("k", "v") else cfg.n_heads)
