"""Activations: named tensors over prompts and positions, with the prompts they came from.

Padding is nan, so that a mean which forgets the mask shows it at once. The tensors are reached through a mapping, so a
store on disk can stand where a dict stands now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, PromptError
from interp.prompts import Position, Prompts, Rows, chosen_rows
from interp.sites import Site


@dataclass(frozen=True, eq=False)
class Activations:
    """What a model computed at some sites on some prompts. Axes of each tensor: `site.axes`."""

    prompts: Prompts
    tensors: Mapping[Site, Tensor]
    n_layers: int

    def __getitem__(self, site: Site | tuple[str, int] | str) -> Float[Tensor, "prompt ..."]:
        wanted = site if isinstance(site, Site) else Site(site) if isinstance(site, str) else Site(*site)
        if wanted not in self.tensors:
            known = ", ".join(dict.fromkeys(s.name for s in self.tensors))
            raise ConfigError(f"site {wanted} was not captured (captured: {known}); name it in `capture`")
        return self.tensors[wanted]

    def take(self, index: Rows) -> Activations:
        """The activations of some prompts (integers or a mask), in this order."""
        rows = chosen_rows(index, len(self.prompts))
        prompts = self.prompts.take(rows)
        return Activations(
            prompts,
            {site: _trim(tensor[rows], site, prompts.tokens.shape[1]) for site, tensor in self.tensors.items()},
            self.n_layers,
        )

    def layers(self, name: str) -> list[int]:
        """Layers at which a site was captured, in order."""
        return sorted(site.layer for site in self.tensors if site.name == name)

    def stack(self, name: str) -> Float[Tensor, "prompt layer ..."]:
        """All captured layers of a site."""
        layers = self.layers(name)
        if not layers:
            self[Site(name, 0)]
        return torch.stack([self[Site(name, layer)] for layer in layers], dim=1)

    def at(self, name: str, layer: int, positions: Sequence[Position]) -> Float[Tensor, "prompt position ..."]:
        """A site's vectors at roles or indices, aligned over prompts; nan where a prompt lacks the position."""
        tensor = self[Site(name, layer)]
        if Site(name, layer).axes[1] != "pos":
            raise ConfigError(f"{name} has no position axis to pick from; its axes are {Site(name, layer).axes}")
        return gather_positions(tensor, self.prompts, positions)

    def depths(self) -> list[Site]:
        """Where the residual stream stands at every depth: before layer 0, ..., after the last layer."""
        if self.layers("resid_pre") != list(range(self.n_layers)):
            raise ConfigError("this needs resid_pre at every layer; name it in `capture`")
        return [*(Site("resid_pre", layer) for layer in range(self.n_layers)), Site("resid_post", self.n_layers - 1)]

    def residual(self) -> Float[Tensor, "prompt depth pos d_model"]:
        """The residual stream at every depth."""
        return torch.stack([self[site] for site in self.depths()], dim=1)

    def stream(self) -> list[tuple[str, Site, Float[Tensor, "prompt pos d_model"]]]:
        """The stream depth by depth, as in `residual` and after each attention whose `resid_mid` was captured.

        Each with its name (embed, layer 0 attention, layer 0, ...) and the site at which an edit changes it.
        """
        depths = self.depths()
        found = [("embed", depths[0], self[depths[0]])]
        for layer in range(self.n_layers):
            middle = Site("resid_mid", layer)
            if middle in self.tensors:
                found.append((f"layer {layer} attention", middle, self.tensors[middle]))
            found.append((f"layer {layer}", Site("resid_post", layer), self[depths[layer + 1]]))
        return found


def _trim(tensor: Tensor, site: Site, width: int) -> Tensor:
    for axis, name in enumerate(site.axes):
        if name in ("pos", "query", "key"):
            tensor = tensor.narrow(axis, 0, width)
    return tensor


def gather_positions(
    tensor: Float[Tensor, "prompt pos ..."], prompts: Prompts, positions: Sequence[Position]
) -> Float[Tensor, "prompt position ..."]:
    """Rows of `tensor` at these positions of each prompt; nan where a prompt lacks one."""
    if len(tensor) != len(prompts):
        raise PromptError(f"{len(tensor)} rows of activations do not fit {len(prompts)} prompts")
    columns = prompts.table(positions).to(tensor.device)
    rows = torch.arange(len(tensor), device=tensor.device)[:, None]
    picked = tensor[rows, columns.clamp(min=0)]
    absent = (columns < 0).reshape(*columns.shape, *[1] * (tensor.ndim - 2))
    return picked.masked_fill(absent, torch.nan)
