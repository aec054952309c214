"""Sites: the places in a model that can be read and edited. The only file that spells TransformerLens hook names.

Names follow TransformerLens (Nanda & Bloom, 2022). A site is a name and a layer; its tensor has the axes listed in
`AXES`, the first of which is always the prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import SupportsIndex, cast

from interp.errors import ConfigError

_HOOKS = {
    "resid_pre": "blocks.{}.hook_resid_pre",
    "resid_mid": "blocks.{}.hook_resid_mid",
    "resid_post": "blocks.{}.hook_resid_post",
    "attn_out": "blocks.{}.hook_attn_out",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "q": "blocks.{}.attn.hook_q",
    "k": "blocks.{}.attn.hook_k",
    "v": "blocks.{}.attn.hook_v",
    "z": "blocks.{}.attn.hook_z",
    "pattern": "blocks.{}.attn.hook_pattern",
    "mlp_post": "blocks.{}.mlp.hook_post",
}

_STREAM = ("prompt", "pos", "d_model")
_HEADS = ("prompt", "pos", "head", "d_head")

AXES: dict[str, tuple[str, ...]] = {
    "resid_pre": _STREAM,
    "resid_mid": _STREAM,
    "resid_post": _STREAM,
    "attn_out": _STREAM,
    "mlp_out": _STREAM,
    "q": _HEADS,
    "k": _HEADS,
    "v": _HEADS,
    "z": _HEADS,
    "pattern": ("prompt", "head", "query", "key"),
    "mlp_post": ("prompt", "pos", "neuron"),
    "features": ("prompt", "pos", "feature"),
    "logits": ("prompt", "read", "vocab"),
}
"""Axes of each site's tensor. `k` and `v` have the key-value heads; `logits` only the columns that are read; `features`
are those of transcoders that were attached to the model."""


@dataclass(frozen=True, order=True)
class Site:
    """A named place at a layer, for instance `Site("z", 3)`: what the heads of layer 3 write before W_O.

    `Site("logits")` has no layer (-1): the logits at the columns that the prompts read.
    """

    name: str
    layer: int = -1

    def __post_init__(self) -> None:
        if self.name not in AXES:
            raise ConfigError(f"there is no site {self.name!r}; choose from {', '.join(AXES)}")

    def __str__(self) -> str:
        return self.name if self.layer < 0 else f"{self.name}.{self.layer}"

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of this site's tensor."""
        return AXES[self.name]

    @property
    def unit_axis(self) -> int | None:
        """The axis that counts heads, neurons or features, where the site has one."""
        return next((i for i, axis in enumerate(self.axes) if axis in ("head", "neuron", "feature")), None)

    @property
    def hook(self) -> str:
        """TransformerLens' name for the hook point."""
        if self.name not in _HOOKS:
            raise ConfigError(f"{self.name} has no hook of TransformerLens")
        return _HOOKS[self.name].format(self.layer)


def numbers_of(chosen: SupportsIndex | Iterable[SupportsIndex], what: str) -> tuple[int, ...]:
    """Layers, heads or neurons that were chosen, one or several, as plain numbers.

    Raises ConfigError for none and for what is no whole number: a mask would be read as the numbers 0 and 1.
    """
    several = isinstance(chosen, Iterable) and getattr(chosen, "ndim", 1) > 0
    found = tuple(cast("Iterable[SupportsIndex]", chosen)) if several else (cast("SupportsIndex", chosen),)
    if not found:
        raise ConfigError(f"name at least one {what}")
    for one in found:
        if isinstance(one, bool) or "bool" in str(getattr(one, "dtype", "")) or not hasattr(one, "__index__"):
            raise ConfigError(f"a {what} is named by its number, not by {one!r}")
    try:
        return tuple(map(index, found))
    except TypeError as error:
        raise ConfigError(f"a {what} is named by its number: {error}") from error


def every(names: Iterable[str | Site], n_layers: int, layers: Sequence[int] | None = None) -> list[Site]:
    """Spell out site names over layers: `every(["z"], 2)` is `[Site("z", 0), Site("z", 1)]`.

    A `Site` passes unchanged. Raises ConfigError where a layer is not in the model.
    """
    chosen = range(n_layers) if layers is None else numbers_of(layers, "layer")
    found: list[Site] = []
    for name in names:
        if isinstance(name, Site):
            found.append(name)
        elif name == "logits":
            found.append(Site("logits"))
        else:
            found.extend(Site(name, layer) for layer in chosen)
    for site in found:
        if site.name != "logits" and not 0 <= site.layer < n_layers:
            raise ConfigError(f"there is no layer {site.layer}: the model has layers 0 to {n_layers - 1}")
    return list(dict.fromkeys(found))
