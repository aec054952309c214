"""The order of a sweep's work: where each cell begins and ends, and which edits of many cells are one.

Cells of a grid write the same value into the same units and differ in columns alone; they are carried out together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.models.edits import Edit, columns_at
from interp.prompts import Prompts
from interp.sites import Site

CLIMBING, BEFORE, INSIDE, BETWEEN, NEURONS, AFTER = range(-1, 5)
STAGES = {
    "resid_pre": BEFORE, "q": INSIDE, "k": INSIDE, "v": INSIDE, "pattern": INSIDE, "z": INSIDE, "attn_out": BETWEEN,
    "resid_mid": BETWEEN, "mlp_post": NEURONS, "mlp_out": AFTER, "resid_post": AFTER,
}  # fmt: skip
"""How far into its layer a site stands: before attention, inside it, between it and the MLP, inside that, after it."""


@dataclass(frozen=True, eq=False)
class Group:
    """Edits of several cells at one site that write the same value into the same units."""

    edit: Edit
    cells: Int[Tensor, " cell"]
    which: Int[Tensor, " cell"]
    """The set of columns that each cell touches."""
    columns: Bool[Tensor, "set prompt pos"]
    """The sets of columns that edits touch, of all groups."""

    def touched(self, place: Int[Tensor, " hit"], prompts: Int[Tensor, " hit"]) -> Bool[Tensor, "hit pos"]:
        """Which columns of these prompts the cells at these places touch."""
        return self.columns[self.which[place], prompts]

    def rows(self, cells: Int[Tensor, " row"]) -> tuple[Int[Tensor, " hit"], Int[Tensor, " hit"]]:
        """The rows that this edits, and the places of their cells here."""
        place = torch.searchsorted(self.cells, cells).clamp(max=len(self.cells) - 1)
        hit = (self.cells[place] == cells).nonzero().flatten()
        return hit, place[hit]


@dataclass(frozen=True, eq=False)
class Plan:
    """All cells' edits in the order in which they are carried out."""

    at: dict[Site, list[Group]]
    of: dict[Site, dict[int, list[int]]]
    """Which of a site's groups a cell belongs to."""
    firsts: Int[Tensor, "start prompt"]
    """The first column that edits touch in a prompt; the width where they touch none."""
    start: Int[Tensor, " cell"]
    """Where a cell's edits begin: which of these."""
    begin: list[tuple[int, int]]
    """Layer and stage at which each cell begins."""
    end: Int[Tensor, "cell two"]
    """Layer and stage of its last edit."""

    def waits(self, layer: int, stage: int, cells: Int[Tensor, " row"]) -> Bool[Tensor, " row"]:
        """Whether cells have edits after this stage."""
        at, part = self.end[cells].unbind(1)
        return (at > layer) | ((at == layer) & (part > stage))

    def hits(
        self, site: Site, cells: Int[Tensor, " row"]
    ) -> Iterator[tuple[Group, Int[Tensor, " hit"], Int[Tensor, " hit"]]]:
        """The groups of a site that edit rows of these cells, with the rows and the places of their cells."""
        if site not in self.of:
            return
        known = self.of[site]
        found = {number for cell in set(cells.tolist()) for number in known.get(cell, ())}
        for number in sorted(found):
            yield self.at[site][number], *self.at[site][number].rows(cells)


def plan_of(cells: Sequence[Sequence[Edit]], prompts: Prompts, n_layers: int, place: torch.device) -> Plan:
    """Sort the edits of all cells by where and in which order they are carried out."""
    width = prompts.tokens.shape[1]
    gathered: dict[tuple[Site, int, Any, tuple[bool, int]], tuple[Edit, list[int], list[int]]] = {}
    begin, end = [], []
    sets: dict[Any, int] = {}
    places: list[Any] = []
    starts: dict[frozenset[int], int] = {}
    start = []
    for number, cell in enumerate(cells):
        stages, own = [], set()
        for order, edit in enumerate(cell):
            site = edit.site
            # The stream after one block is the stream before the next.
            if site.name == "resid_post" and site.layer + 1 < n_layers:
                site = Site("resid_pre", site.layer + 1)
            stages.append((site.layer, STAGES[site.name]))
            place_of = id(edit.at) if isinstance(edit.at, Tensor) else edit.at
            if place_of not in sets:
                sets[place_of] = len(places)
                places.append(edit.at)
            own.add(sets[place_of])
            # Edits of one cell at one site act one after the other, those of the block below first.
            rank = edit.site == site, sum(other.site == edit.site for other in cell[:order])
            key = site, id(edit.value), edit.numbers, rank
            if key not in gathered:
                gathered[key] = replace(edit, at=None), [], []
            same = gathered[key]
            same[1].append(number)
            same[2].append(sets[place_of])
        start.append(starts.setdefault(frozenset(own), len(starts)))
        begin.append(min(stages))
        end.append(max(stages))
    at: dict[Site, list[tuple[tuple[bool, int], Group]]] = {}
    every_set = columns_at(places, prompts).to(place)
    for (site, _, _, rank), (edit, numbers, which) in gathered.items():
        group = Group(edit, torch.tensor(numbers, device=place), torch.tensor(which, device=place), every_set)
        at.setdefault(site, []).append((rank, group))
    ordered = {site: [group for _, group in sorted(groups, key=lambda one: one[0])] for site, groups in at.items()}
    of: dict[Site, dict[int, list[int]]] = {site: {} for site in ordered}
    for site, groups in ordered.items():
        for number, group in enumerate(groups):
            for cell in group.cells.tolist():
                of[site].setdefault(cell, []).append(number)
    columns = torch.where(every_set.any(2), every_set.int().argmax(2), width)
    firsts = torch.stack([columns[sorted(own)].amin(0) for own in starts])
    return Plan(ordered, of, firsts, torch.tensor(start, device=place), begin, torch.tensor(end, device=place))
