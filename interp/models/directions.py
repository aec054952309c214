"""Directions as objects: one vector at one site, and what can be done with it.

Probes, mean differences and refusal directions are all of this type. A direction is a claim about geometry until an
edit shows that the model uses it; the control is a random direction of the same norm (`random`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError
from interp.models.edits import Add, Edit, ProjectOut
from interp.prompts import Position
from interp.sites import Site


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector in the space of a site. Its length counts when it is added, not when it is projected out."""

    site: Site
    vector: Float[Tensor, " d"]
    source: str
    """What it came from, in words."""

    def __post_init__(self) -> None:
        if not isinstance(self.site, Site):
            raise ConfigError(f"a direction needs a site, for instance Site('resid_post', 1), not {self.site!r}")
        if not bool(torch.isfinite(self.vector).all()) or float(self.vector.norm()) == 0:
            raise ConfigError(f"the direction of {self.source!r} is zero or not finite, so it points nowhere")

    @property
    def norm(self) -> float:
        """Length of the vector."""
        return float(self.vector.norm())

    @property
    def unit(self) -> Float[Tensor, " d"]:
        """The vector at length 1."""
        return self.vector / self.vector.norm()

    def add(self, scale: float = 1.0, *, at: Position | None = None) -> Edit:
        """An edit that adds `scale` times the vector (Turner et al., arXiv 2308.10248)."""
        return Edit(self.site, Add(self.vector, scale), at=at)

    def project_out(self, *, at: Position | None = None) -> Edit:
        """An edit that removes the component along the vector (Arditi et al., arXiv 2406.11717)."""
        return Edit(self.site, ProjectOut(self.vector), at=at)

    def dose(self, scales: Sequence[float], *, at: Position | None = None) -> list[list[Edit]]:
        """Cells of a sweep that add the vector at each scale."""
        return [[self.add(scale, at=at)] for scale in scales]

    def cosine(self, other: Direction) -> float:
        """Cosine with another direction of the same width."""
        if len(other.vector) != len(self.vector):
            raise ConfigError(f"directions of width {len(self.vector)} and {len(other.vector)} cannot be compared")
        return float(self.unit @ other.unit.to(self.unit))

    def along(self, values: Float[Tensor, "*any d"]) -> Float[Tensor, "*any"]:
        """How far vectors reach along the direction, in units of length."""
        return values @ self.unit.to(values)

    def random(self, count: int, *, seed: int = 0) -> list[Direction]:
        """Random directions of the same norm at the same site, drawn uniformly from the sphere: the control."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(count, len(self.vector), generator=generator)
        drawn = (drawn / drawn.norm(dim=1, keepdim=True) * self.norm).to(self.vector)
        return [Direction(self.site, vector, f"random direction {i} (seed {seed})") for i, vector in enumerate(drawn)]
