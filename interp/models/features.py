"""Features of transcoders as sites: `Site("features", layer)` of a model that a set was attached to.

Read, they are the activations that the set finds in the stream between attention and MLP. Edited, what the change
writes is added to what the MLPs write, and all above runs on it; errors stay what they are. So a feature that is set to
what it was changes nothing, however bad the set is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from jaxtyping import Float
from torch import Tensor

from interp.errors import ModelError
from interp.models.load import HookedTransformer, info
from interp.sites import Site

NAME = "features"


@dataclass(frozen=True, eq=False)
class FeatureSites:
    """What `circuits.attached` tells of a set of transcoders."""

    sizes: tuple[int, ...]
    """Features of each layer."""
    read: Callable[[int, Float[Tensor, "row pos d_model"]], Float[Tensor, "row pos feature"]]
    """Activations of a layer's features in the stream between attention and MLP."""
    write: Callable[[int, Float[Tensor, "row pos feature"]], list[Float[Tensor, "row pos d_model"]]]
    """What a change of them changes in what this layer's MLP writes, and in what those above it write."""


_SITES: WeakKeyDictionary[HookedTransformer, FeatureSites] = WeakKeyDictionary()


def attach(model: HookedTransformer, sites: FeatureSites) -> None:
    """Give the model feature sites, in the place of any that it had."""
    _SITES[model] = sites


def detach(model: HookedTransformer) -> None:
    """Take them away."""
    _SITES.pop(model, None)


def feature_sites(model: HookedTransformer) -> FeatureSites:
    """The sites that were attached. Raises ModelError where there are none."""
    if model not in _SITES:
        raise ModelError(f"{info(model).name} has no features; attach transcoders to it first (attach_transcoders)")
    return _SITES[model]


def feature_hooks(
    model: HookedTransformer,
    points: Mapping[str, Any],
    keep: Sequence[Site],
    changes: Mapping[Site, Sequence[Callable[[Tensor], Tensor]]],
    kept: dict[Site, Tensor],
) -> list[tuple[Any, Callable[..., Any]]]:
    """The functions that read and change features, each with its hook point; they go before those of other sites."""
    layers = sorted({site.layer for site in (*keep, *changes) if site.name == NAME})
    if not layers:
        return []
    sites = feature_sites(model)
    hooks: list[tuple[Any, Callable[..., Any]]] = []
    for layer in layers:
        hooks += _of_layer(sites, points, Site(NAME, layer), keep, changes.get(Site(NAME, layer), ()), kept)
    return hooks


def _of_layer(
    sites: FeatureSites,
    points: Mapping[str, Any],
    site: Site,
    keep: Sequence[Site],
    functions: Sequence[Callable[[Tensor], Tensor]],
    kept: dict[Site, Tensor],
) -> list[tuple[Any, Callable[..., Any]]]:
    added: list[Tensor] = []

    def read(mid: Tensor, hook: Any) -> None:
        found = new = sites.read(site.layer, mid)
        for function in functions:
            new = function(new)
        if site in keep:
            kept[site] = new
        if functions:
            added[:] = sites.write(site.layer, new - found)

    def adding(up: int) -> Callable[..., Tensor]:
        # Where the stream is cut off below, or a set writes to its own layer alone, there is nothing to add.
        return lambda out, hook: out + added[up] if up < len(added) else out

    hooks: list[tuple[Any, Callable[..., Any]]] = [(points[Site("resid_mid", site.layer).hook], read)]
    if functions:
        above = range(site.layer, len(sites.sizes))
        hooks += [(points[Site("mlp_out", layer).hook], adding(layer - site.layer)) for layer in above]
    return hooks
