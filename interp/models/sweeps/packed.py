"""The sweep that computes only what an edit can change.

A copy of a prompt under one cell's edits is a *row*. A row begins at the layer and with the columns that its edits
change: below and beside them, everything is the base run's. The next attention hands the change on to all later
columns, and from there the row carries these. So all rows climb the layers together, each joining where it begins;
their tokens lie side by side in one table, so that one matrix product serves them all; the keys and values of other
columns are the base run's, which climbs along. Where edits write what stood there already, no row begins. In the last
layer only the columns that are read are carried on, and only the logits that the metrics look at are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from jaxtyping import Bool, Float, Int
from rich.progress import Progress
from torch import Tensor

from interp.models.sweeps.blocks import Block, Layer, Network, at_columns, turned
from interp.models.sweeps.grid import Edits, Readout, changed
from interp.models.sweeps.plan import AFTER, BEFORE, BETWEEN, CLIMBING, INSIDE, NEURONS, STAGES, Group, Plan, plan_of
from interp.models.sweeps.runs import Runs
from interp.sites import Site

_COLUMNS = 4096
"""Columns of all rows in one table, at most: attention lays them all out."""
_PLACE = 32
"""Bytes that say whose a token is and where it stands, twice while tables are joined."""


@dataclass(frozen=True, eq=False)
class _Rows:
    """Some rows on their way up, with the tokens that they carry."""

    cell: Int[Tensor, " row"]
    prompt: Int[Tensor, " row"]
    """Place among the prompts of the tile."""
    row: Int[Tensor, " token"]
    column: Int[Tensor, " token"]
    """Whose a token is, and where it stands; in order. All others are the base run's."""
    stream: Float[Tensor, "token d_model"]
    begin: int = CLIMBING
    """The stage of this layer up to which the rows are the base run."""

    def of(self, base: Float[Tensor, "prompt pos ..."]) -> Float[Tensor, "token ..."]:
        """What the base run has at these tokens."""
        return _taken(base, self.prompt[self.row], self.column)

    def over(
        self, base: Float[Tensor, "prompt pos head d"], tokens: Float[Tensor, "token head d"]
    ) -> Float[Tensor, "row head pos d"]:
        """Whole rows: the tokens at their columns, the base run elsewhere."""
        found = base.transpose(1, 2).contiguous().index_select(0, self.prompt)
        return _put_heads(found, self.row, self.column, tokens)

    def spread(
        self,
        wide: tuple[Int[Tensor, " wide"], Int[Tensor, " wide"]],
        tokens: Float[Tensor, "token ..."],
        base: Float[Tensor, "prompt pos ..."],
    ) -> Float[Tensor, "wide ..."]:
        """The tokens among more of their rows (and columns), the others from the base run."""
        if len(wide[0]) == len(self.row):
            return tokens
        found = _taken(base, self.prompt[wide[0]], wide[1])
        # Both lists are in order: a token's place among more is where its number would go.
        at, own = (row * base.shape[1] + column for row, column in (wide, (self.row, self.column)))
        return found.index_copy_(0, torch.searchsorted(at, own), tokens)

    def keep(self, tokens: Bool[Tensor, " token"]) -> _Rows:
        """These tokens alone."""
        kept = tokens.nonzero().flatten()
        row, column, stream = (part.index_select(0, kept) for part in (self.row, self.column, self.stream))
        return replace(self, row=row, column=column, stream=stream)


@dataclass(eq=False)
class _Climb:
    """One tile: some prompts, some cells, all layers."""

    net: Network
    plan: Plan
    index: Int[Tensor, " prompt"]
    """Numbers of the tile's prompts among all."""
    cells: Int[Tensor, " cell"]
    """The tile's cells, sorted by where they begin."""
    reads: Int[Tensor, "prompt read"]
    ends: Int[Tensor, " prompt"]
    """Columns up to the last that is read."""
    rows: int
    """Rows in one table."""
    columns: int = field(init=False)
    slot: Int[Tensor, "prompt pos"] = field(init=False)
    """The place of a column among those that a prompt reads; -1 where it is not read."""

    def __post_init__(self) -> None:
        self.columns = int(self.ends.max())
        here = torch.arange(self.columns, device=self.reads.device)
        read = self.reads[:, None, :] == here[:, None]
        self.slot = torch.where(read.any(-1), read.int().argmax(-1), -1)

    def run(
        self, stream: Float[Tensor, "prompt pos d_model"], climbed: Callable[[], None]
    ) -> tuple[list[_Rows], Float[Tensor, "prompt pos d_model"]]:
        """The rows after the last layer, at the columns that are read, and the base run's stream."""
        tables: list[_Rows] = []
        for layer, block in enumerate(self.net.blocks):
            starting = [c for c in self.cells.tolist() if self.plan.begin[c][0] == layer]
            neurons = any(self.plan.begin[c] == (layer, NEURONS) for c in starting)
            base = self.net.layer(block, stream, keep_neurons=neurons)
            tables = list(self._layer(layer, block, base, tables, starting))
            stream = base.after
            climbed()
        return tables, stream

    def _entering(self, base: Layer, layer: int, stage: int, starting: Sequence[int]) -> Iterator[_Rows]:
        """Rows that begin at a stage, in tables; their tokens are the base run's."""
        chosen = [c for c in starting if self.plan.begin[c][1] == stage]
        if not chosen:
            return
        cells = torch.tensor(chosen, device=self.index.device)
        first = self.plan.firsts[:, self.index][self.plan.start[cells]]
        place, prompt = (first < self.ends).nonzero(as_tuple=True)
        if not len(place):
            return
        # Rows that begin at like columns share a table: it is as wide as its widest.
        order = first[place, prompt].argsort(stable=True)
        for part in order.split(self.rows):
            cell, own, start = cells[place[part]], prompt[part], first[place[part], prompt[part]]
            inside = self._between(start, own) & self._entered(layer, stage, cell, own)
            if layer == len(self.net.blocks) - 1 and stage > INSIDE:
                inside &= self.slot[own] >= 0
            row, column = inside.nonzero(as_tuple=True)
            yield _Rows(cell, own, row, column, base.stream[own[row], column], stage)

    def _between(self, first: Int[Tensor, " row"], prompt: Int[Tensor, " row"]) -> Bool[Tensor, "row pos"]:
        """Columns from a first one up to the last that is read."""
        here = torch.arange(self.columns, device=first.device)
        return (here >= first[:, None]) & (here < self.ends[prompt][:, None])

    def _entered(
        self, layer: int, stage: int, cell: Int[Tensor, " row"], prompt: Int[Tensor, " row"]
    ) -> Bool[Tensor, "row pos"]:
        """Columns with which rows begin at a stage: those that its edits touch, or all where other edits follow."""
        found = self.plan.waits(layer, stage, cell)[:, None].expand(-1, self.columns).clone()
        for name, at in STAGES.items():
            for group, hit, place in self.plan.hits(Site(name, layer), cell) if at == stage else ():
                found[hit] |= group.touched(place, self.index[prompt[hit]])[:, : self.columns]
        return found

    def _layer(
        self, layer: int, block: Block, base: Layer, tables: list[_Rows], starting: Sequence[int]
    ) -> Iterator[_Rows]:
        """All rows after the layer; `tables` is used up.

        Those that begin in it join the others at the next part that both go through. Tables go through the layer one
        after the other, each let go as soon as its successor is there.
        """

        def beginning(stage: int) -> Iterator[_Rows]:
            return self._entering(base, layer, stage, starting)

        before = (self._before(layer, base, rows) for rows in chain(_used_up(tables), beginning(BEFORE)))
        entries = chain(self._joined(before), beginning(INSIDE))
        attended = (self._attention(layer, block, base, rows) for rows in entries)
        between = (self._middle(layer, base, rows, rows.of(base.attn_out)) for rows in beginning(BETWEEN))
        mids = chain(self._joined(chain(attended, between)), beginning(NEURONS))
        mapped = (self._mlp(layer, block, base, rows) for rows in mids)
        outs = ((rows, rows.of(base.mid), rows.of(base.mlp_out)) for rows in beginning(AFTER))
        return self._joined(chain(mapped, (self._after(layer, base, *out) for out in outs)))

    def _joined(self, tables: Iterable[_Rows]) -> Iterator[_Rows]:
        """Neighbouring tables joined while they are small enough."""
        some: list[_Rows] = []
        size = 0
        for rows in tables:
            if some and size + len(rows.cell) > self.rows:
                yield _together(some)
                some, size = [], 0
            if len(rows.row):
                some.append(rows)
                size += len(rows.cell)
        if some:
            yield _together(some)

    def _before(self, layer: int, base: Layer, rows: _Rows) -> _Rows:
        """The stream before the layer."""
        edited = self._edited(rows, rows.stream, Site("resid_pre", layer))
        return self._pruned(replace(rows, stream=edited), layer, BEFORE, base.stream)

    def _middle(self, layer: int, base: Layer, rows: _Rows, attn_out: Float[Tensor, "token d_model"]) -> _Rows:
        """The stream between attention and the MLP."""
        attn_out = self._edited(rows, attn_out, Site("attn_out", layer))
        mid = self._edited(rows, rows.stream.add_(attn_out), Site("resid_mid", layer))
        return self._pruned(replace(rows, stream=mid), layer, BETWEEN, base.mid)

    def _mlp(self, layer: int, block: Block, base: Layer, rows: _Rows) -> _Rows:
        mid = rows.of(base.mid) if rows.begin == NEURONS else rows.stream
        edited = any(True for _ in self.plan.hits(Site("mlp_post", layer), rows.cell))
        mlp_out = self._neurons(layer, block, base, rows, mid) if edited else block.mlp_out(mid)
        return self._after(layer, base, rows, mid, mlp_out)

    def _after(self, layer: int, base: Layer, rows: _Rows, mid: Tensor, mlp_out: Tensor) -> _Rows:
        """The stream after the layer."""
        mlp_out = self._edited(rows, mlp_out, Site("mlp_out", layer))
        after = self._edited(rows, mid.add_(mlp_out), Site("resid_post", layer))
        return self._pruned(replace(rows, stream=after), layer, AFTER, base.after)

    def _attention(self, layer: int, block: Block, base: Layer, rows: _Rows) -> _Rows:
        last = layer == len(self.net.blocks) - 1
        sites = {name: Site(name, layer) for name in ("q", "k", "v", "pattern", "z")}
        mixing = [name for name in ("q", "k", "v", "pattern") if sites[name] in self.plan.at]
        begins = rows.begin == INSIDE
        if begins and not mixing:
            rows = rows.keep(self._read(rows)) if last else rows
            z = rows.of(base.z)
        else:
            x = None if begins else block.ln1.of(rows.stream)

            def heads(name: str, own: _Rows, entry: Tensor | None) -> Tensor:
                made = (
                    own.of(getattr(base, name))
                    if entry is None
                    else self.net.heads(torch.nn.functional.linear(entry, *getattr(block, name)))
                )
                return self._edited(own, made, sites[name])

            angles = self.net.angles(self.columns)
            k = rows.over(base.turned_k, turned(heads("k", rows, x), at_columns(angles, rows.column)))
            v = rows.over(base.v, heads("v", rows, x))
            narrow = last and "pattern" not in mixing
            wide = self._spread(rows, narrow)
            if narrow:
                kept = self._read(rows)
                rows, x = rows.keep(kept), None if x is None else _chosen(x, kept)
            q = rows.spread(wide, heads("q", rows, x), base.q)
            rows = replace(rows, row=wide[0], column=wide[1], stream=rows.spread(wide, rows.stream, base.stream))
            if narrow:
                place, columns = self.slot[rows.prompt[rows.row], rows.column], self.reads[rows.prompt]
            else:
                lowest = 0 if "pattern" in mixing or not len(rows.column) else int(rows.column.min())
                place = rows.column - lowest
                columns = torch.arange(lowest, self.columns, device=k.device).expand(len(k), -1)
            table = q.new_zeros(len(k), self.net.n_heads, columns.shape[1], self.net.d_head)
            _put_heads(table, rows.row, place, turned(q, at_columns(angles, rows.column)))
            table, k, v = (part.transpose(1, 2) for part in (table, k, v))
            if "pattern" in mixing:
                pattern = self.net.pattern(block, table, k, columns)
                for group, hit, cell in self.plan.hits(sites["pattern"], rows.cell):
                    touched = self._touched(group, rows, hit, cell)
                    pattern[hit] = group.edit.apply(pattern[hit], touched, self.index[rows.prompt[hit]])
                z = self.net.read(pattern, v)
            else:
                z = self.net.mixed(block, table, k, v, columns)
            z = _taken_heads(z.transpose(1, 2), rows.row, place)
            if last and not narrow:
                kept = self._read(rows)
                rows, z = rows.keep(kept), _chosen(z, kept)
        z = self._edited(rows, z, sites["z"])
        kept = self._live(rows, layer, INSIDE, z, base.z)
        if kept is not None:
            rows, z = rows.keep(kept), _chosen(z, kept)
        return self._middle(layer, base, rows, block.attn_out(z))

    def _read(self, rows: _Rows) -> Bool[Tensor, " token"]:
        return self.slot[rows.prompt[rows.row], rows.column] >= 0

    def _spread(self, rows: _Rows, narrow: bool) -> tuple[Int[Tensor, " token"], Int[Tensor, " token"]]:
        """Rows and columns that attention may change: from a row's first column on, `narrow` those read alone."""
        first = torch.full((len(rows.cell),), self.columns, device=rows.row.device)
        first.scatter_reduce_(0, rows.row, rows.column, "amin")
        reached = self._between(first, rows.prompt)
        row, column = (reached & (self.slot[rows.prompt] >= 0) if narrow else reached).nonzero(as_tuple=True)
        return row, column

    def _neurons(self, layer: int, block: Block, base: Layer, rows: _Rows, mid: Tensor) -> Tensor:
        """What the MLP writes where some neurons are edited, a few rows at a time."""
        site, made = Site("mlp_post", layer), torch.empty_like(mid)
        bounds = torch.arange(len(rows.cell), device=mid.device)
        for part in bounds.split(max(1, self.rows // 4)):
            here = (rows.row >= part[0]) & (rows.row <= part[-1])
            few = rows.keep(here)
            few = replace(few, cell=rows.cell[part], prompt=rows.prompt[part], row=few.row - part[0])
            own = (
                few.of(base.neurons) if rows.begin == NEURONS and base.neurons is not None else block.neurons(mid[here])
            )
            made[here] = block.from_neurons(self._edited(few, own, site))
        return made

    def _edited(self, rows: _Rows, tokens: Float[Tensor, "token ..."], site: Site) -> Float[Tensor, "token ..."]:
        """The tokens with all edits at a site carried out."""
        for group, hit, cell in self.plan.hits(site, rows.cell):
            row, column, own, mine = rows.row, rows.column, tokens, None
            if len(hit) < len(rows.cell):
                place = torch.full((len(rows.cell),), -1, device=hit.device)
                place[hit] = torch.arange(len(hit), device=hit.device)
                mine = (place[row] >= 0).nonzero().flatten()
                row, column, own = place[row[mine]], column[mine], tokens.index_select(0, mine)
            table = tokens.new_zeros(len(hit), self.columns, *tokens.shape[1:])
            table[row, column] = own
            new = group.edit.apply(table, self._touched(group, rows, hit, cell), self.index[rows.prompt[hit]])
            new = _taken(new, row, column)
            tokens = new if mine is None else tokens.index_copy(0, mine, new)
        return tokens

    def _touched(self, group: Group, rows: _Rows, hit: Tensor, cell: Tensor) -> Bool[Tensor, "hit pos"]:
        return group.touched(cell, self.index[rows.prompt[hit]])[:, : self.columns]

    def _live(
        self, rows: _Rows, layer: int, stage: int, tokens: Float[Tensor, "token ..."], base: Tensor
    ) -> Bool[Tensor, " token"] | None:
        """Tokens that differ from the base run; None where there is nothing to ask: the rows did not begin here."""
        if rows.begin != stage or not len(tokens):
            return None
        # A row with further edits to come goes on whole.
        return changed(tokens, rows.of(base)) | self.plan.waits(layer, stage, rows.cell)[rows.row]

    def _pruned(self, rows: _Rows, layer: int, stage: int, base: Tensor) -> _Rows:
        kept = self._live(rows, layer, stage, rows.stream, base)
        return rows if kept is None else rows.keep(kept)


def _chosen(tokens: Float[Tensor, "token ..."], which: Bool[Tensor, " token"]) -> Float[Tensor, "some ..."]:
    return tokens.index_select(0, which.nonzero().flatten())


def _taken(
    table: Float[Tensor, "row pos ..."], row: Int[Tensor, " token"], column: Int[Tensor, " token"]
) -> Float[Tensor, "token ..."]:
    """`table[row, column]`, copied token by token: two tables of indices make torch go number by number."""
    return table.flatten(0, 1).index_select(0, row * table.shape[1] + column)


def _taken_heads(
    table: Float[Tensor, "row head pos d"], row: Int[Tensor, " token"], column: Int[Tensor, " token"]
) -> Float[Tensor, "token head d"]:
    """`table[row, :, column]`."""
    found = table.flatten(0, 2).index_select(0, _numbers(table, row, column))
    return found.reshape(len(row), table.shape[1], table.shape[-1])


def _put_heads(
    table: Float[Tensor, "row head pos d"],
    row: Int[Tensor, " token"],
    column: Int[Tensor, " token"],
    tokens: Float[Tensor, "token head d"],
) -> Float[Tensor, "row head pos d"]:
    """The table, with these tokens written into it."""
    table.view(-1, table.shape[-1]).index_copy_(0, _numbers(table, row, column), tokens.flatten(0, 1))
    return table


def _numbers(table: Tensor, row: Int[Tensor, " token"], column: Int[Tensor, " token"]) -> Int[Tensor, " vector"]:
    """Where the heads of tokens stand in a table that is laid out head by head."""
    _, heads, columns, _ = table.shape
    here = torch.arange(0, heads * columns, columns, device=row.device)
    return (row * (heads * columns) + column)[:, None].add(here).flatten()


def _used_up(tables: list[_Rows]) -> Iterator[_Rows]:
    while tables:
        yield tables.pop(0)


def _together(tables: Sequence[_Rows]) -> _Rows:
    """Tables one under the other, without rows that have no token."""
    if len(tables) == 1 and tables[0].begin == CLIMBING:  # below the last layer only rows that begin drop tokens
        return tables[0]
    offsets = torch.tensor([0, *(len(rows.cell) for rows in tables)]).cumsum(0).tolist()
    row = torch.cat([rows.row + offset for rows, offset in zip(tables, offsets, strict=False)])
    cell, prompt, column, stream = (
        getattr(tables[0], name) if len(tables) == 1 else torch.cat([getattr(rows, name) for rows in tables])
        for name in ("cell", "prompt", "column", "stream")
    )
    left, row = row.unique_consecutive(return_inverse=True)
    return _Rows(cell[left], prompt[left], row, column, stream)


def packed_sweep(
    runs: Runs, edits: Edits, readout: Readout, *, memory: int, progress: bool
) -> tuple[Float[Tensor, "prompt cell metric"], Float[Tensor, "prompt metric"]]:
    """Scores of every cell and of the base run."""
    net, prompts, ends = runs.net, runs.prompts, runs.ends
    exact = torch.float64 if runs.entry.dtype == torch.float64 else torch.float32
    values = torch.full((len(prompts), len(edits.cells), len(readout.metrics)), torch.nan, dtype=exact)
    unedited = values[:, 0].clone()
    plan = plan_of(edits.cells, prompts, len(net.blocks), ends.device)
    tiles = list(_tiles(net, plan, ends, memory))
    with Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task("sweeping edits", total=len(tiles) * len(net.blocks))
        for index, cells in tiles:
            columns = int(ends[index].max())
            most = min(_COLUMNS, memory // 4 // _column_size(net, columns)) // columns
            climb = _Climb(net, plan, index, cells, runs.reads[index], ends[index], max(1, most))
            tables, stream = climb.run(runs.entry[index, :columns], lambda: bar.advance(task))
            for part in torch.arange(len(index), device=index.device).split(runs.rows_scored(readout, memory // 4)):
                own = index[part]
                unedited[own.cpu()] = runs.scores(readout, runs.at_reads(stream[part], own), own).cpu()
            # Where a row does not differ from the base run, the base run's scores stay.
            values[index.cpu()[:, None], cells.cpu()] = unedited[index.cpu()][:, None]
            for rows in _used_up(tables):
                _score(runs, climb, rows, stream, readout, memory, values)
    return values, unedited


def _tiles(
    net: Network, plan: Plan, ends: Int[Tensor, " prompt"], memory: int
) -> Iterator[tuple[Int[Tensor, " prompt"], Int[Tensor, " cell"]]]:
    """Prompts of like length with as many cells as half of the budget holds when all rows have begun."""
    starts = plan.start.bincount(minlength=len(plan.firsts))
    carried = ((ends - plan.firsts).clamp(min=0) * starts[:, None]).sum(0)
    each = net.unembedding.shape[1] * net.unembedding.element_size() + _PLACE
    room = max(1, memory // 2)
    order = sorted(range(len(plan.begin)), key=lambda cell: plan.begin[cell])
    cells = torch.tensor(order, device=ends.device)
    some: list[int] = []
    size = 0
    for prompt in ends.argsort(stable=True).tolist():
        columns = int(ends[prompt])
        weight = int(carried[prompt]) * each + columns * _column_size(net, columns)
        if some and size + weight > room:
            yield torch.tensor(some, device=ends.device), cells
            some, size = [], 0
        if weight <= room:
            some.append(prompt)
            size += weight
            continue
        # Not even one prompt fits with all cells: its cells in parts.
        tokens = (columns - plan.firsts[plan.start[cells], prompt]).clamp(min=0).cumsum(0)
        part_of = tokens * each // max(each * columns, room - columns * _column_size(net, columns))
        for part in part_of.unique():
            yield torch.tensor([prompt], device=ends.device), cells[part_of == part]
    if some:
        yield torch.tensor(some, device=ends.device), cells


def _column_size(net: Network, columns: int) -> int:
    """Bytes that a column of a row needs on its way through a layer, its share of attention among them."""
    d_model, d_mlp = net.unembedding.shape[1], net.blocks[0].down[0].shape[1]
    return (12 * d_model + 2 * d_mlp + 4 * net.n_heads * columns) * net.unembedding.element_size()


def _score(
    runs: Runs, climb: _Climb, rows: _Rows, stream: Tensor, readout: Readout, memory: int, values: Tensor
) -> None:
    """Write the rows' scores into `values`."""
    base = stream[torch.arange(len(stream), device=stream.device)[:, None], climb.reads.clamp(min=0)]
    final = base[rows.prompt]
    final[rows.row, climb.slot[rows.prompt[rows.row], rows.column]] = rows.stream
    # Two reads at one column share a slot.
    same = climb.slot[rows.prompt[:, None], climb.reads[rows.prompt].clamp(min=0)].clamp(min=0)
    final = final.gather(1, same[..., None].expand(-1, -1, final.shape[-1]))
    for part in torch.arange(len(final), device=final.device).split(runs.rows_scored(readout, memory // 4)):
        own = climb.index[rows.prompt[part]]
        values[own.cpu(), rows.cell[part].cpu()] = runs.scores(readout, final[part], own).cpu()
