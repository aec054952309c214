"""The sweep that serves every architecture: the bridge itself, with the work below the edit left out.

One base run keeps the residual stream. Cells are then grouped by the first block they change; several cells and all
their prompts form one batch that enters that block with the base run's stream, MLPs run on the columns from the edit
on, and only the columns that are read are unembedded. What an architecture does not allow of this is found out on the
real prompts before it starts: where it cannot be entered in the middle, every cell runs from the tokens; where columns
before the edit do not stay what they were, or an MLP looks at more than its token, all columns run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from rich.progress import Progress
from torch import Tensor

from interp.models.edits import Edit, Zero
from interp.models.features import NAME
from interp.models.load import HookedTransformer
from interp.models.run import Change, batch_rows, capture, forward, model_device, numbers, read_columns
from interp.models.sweeps.grid import Edits, Readout, Sweep, changed, longest_read, start_layer, unlike
from interp.models.sweeps.touched import only_at, put_back
from interp.prompts import Prompts
from interp.sites import Site

_LOGITS = Site("logits")
_INSIDE = ("mlp_post", "mlp_out")
"""Sites whose hooks stand in or behind an MLP and want every token there."""
_WORTH = 0.9
"""From this share of tokens on, sparing the others saves less than it costs."""


def generic_sweep(
    model: HookedTransformer, edits: Edits, readout: Readout, *, memory: int, progress: bool, why: str
) -> Sweep:
    """Score every cell through the bridge."""
    prompts = edits.prompts
    n, n_layers = len(prompts), int(model.cfg.n_layers)
    here = model_device(model)
    starts = [start_layer(cell, n_layers) for cell in edits.cells]
    entries = sorted(set(starts))
    limited = any(edit.at is not None for cell in edits.cells for edit in cell)
    # The stream of every block is what it takes to leave columns out; many long prompts have too much of it.
    every = n * n_layers * numbers(model, Site("resid_pre", 0), prompts.tokens.shape[1])
    fits = every * torch.empty(0, dtype=model.cfg.dtype).element_size() <= memory
    kept = range(entries[0], n_layers) if limited and fits else entries
    base = capture(model, prompts, [_LOGITS, *(Site("resid_pre", layer) for layer in kept)], memory=memory)
    streams = {layer: base["resid_pre", layer].nan_to_num_() for layer in kept}
    why_not = _cannot_enter(model, prompts, base[_LOGITS], entries[-1], streams[entries[-1]]) if entries[-1] else ""
    if why_not:
        starts, entries = [0] * len(starts), [0]
    why_all = why_not or _cannot_spare(model, prompts, streams)
    unedited = readout.score(base[_LOGITS], torch.arange(n, device=here)).cpu()
    values = torch.full((n, len(edits.cells), len(readout.metrics)), torch.nan, dtype=unedited.dtype)
    rows = batch_rows(model, prompts.tokens.shape[1], read_columns(prompts), memory)
    needed = _columns_needed(prompts)
    with Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task("sweeping edits", total=len(edits.cells) * n)
        for layer in entries:
            members = [i for i, start in enumerate(starts) if start == layer]
            if not why_not:
                same = [i for i in members if _unchanged(edits.cells[i], prompts, layer, n_layers, streams[layer])]
                values[:, same] = unedited[:, None]
                bar.advance(task, len(same) * n)
                members = sorted(set(members) - set(same))
            if not members:
                continue
            # Many cells of prompts of like length in one batch; where not even one fits, one cell of some prompts.
            for some in needed.argsort(stable=True).split(max(1, min(n, rows // min(len(members), rows)))):
                per_batch = max(1, rows // len(some))
                for first in range(0, len(members), per_batch):
                    cells = members[first : first + per_batch]
                    found = _batch(model, prompts, edits.cells, cells, some, layer, streams, spares=not why_all)
                    index = some.to(here).repeat(len(cells))
                    scores = readout.score(found, index).reshape(len(cells), len(some), -1)
                    values[some[:, None], torch.tensor(cells)] = scores.transpose(0, 1).cpu()
                    bar.advance(task, len(cells) * len(some))
    how = "the bridge itself from the edited block on, several cells in one batch, " + (
        why_all or "MLPs on the columns from the edit on"
    )
    return Sweep(
        values,
        unedited,
        tuple(metric.name for metric in readout.metrics),
        path="generic",
        reason=f"{why}; " + (why_not or how),
    )


def _cannot_enter(
    model: HookedTransformer,
    prompts: Prompts,
    logits: Float[Tensor, "prompt read vocab"],
    layer: int,
    stream: Float[Tensor, "prompt pos d_model"],
) -> str:
    """Why the model cannot be entered at a block above the first; empty where it can, shown on the longest prompts."""
    some = longest_read(prompts)
    wanted = logits[some.to(logits.device)]
    try:
        found = forward(
            model,
            prompts.tokens[some],
            keep=[_LOGITS],
            reads=prompts.reads[some],
            start=layer,
            residual=stream[some.to(stream.device)],
        )[_LOGITS]
    except Exception as error:  # whatever the architecture makes of it, the whole pass still serves
        return f"the bridge from the tokens on: block {layer} cannot be entered ({type(error).__name__})"
    if unlike(found, wanted):
        return f"the bridge from the tokens on: entering block {layer} does not reproduce the model's logits"
    return ""


def _cannot_spare(
    model: HookedTransformer, prompts: Prompts, streams: Mapping[int, Float[Tensor, "prompt pos d_model"]]
) -> str:
    """Why MLPs must run on the columns before an edit too; empty where these stay what they were.

    Tried with an edit in the middle of the longest prompts, from the lowest block on.
    """
    some, layer = longest_read(prompts), min(streams)
    middle = int(_columns_needed(prompts)[some].min()) // 2
    cells = [[Edit(Site("resid_pre", layer), Zero(), at=middle)]]
    whole = _batch(model, prompts, cells, [0], some, layer, streams, spares=False)
    try:
        found = _batch(model, prompts, cells, [0], some, layer, streams, spares=True)
    except Exception as error:  # whatever the architecture makes of it, all columns still serve
        return f"MLPs on all columns (they refuse some alone: {type(error).__name__})"
    return "MLPs on all columns (logits without them are not the model's)" if unlike(found, whole) else ""


def _unchanged(
    cell: Sequence[Edit], prompts: Prompts, layer: int, n_layers: int, entry: Float[Tensor, "prompt pos d_model"]
) -> bool:
    """Whether a cell's edits, all of the stream that enters a block, write what stands there already."""
    if any(_entered(edit.site, n_layers) != Site("resid_pre", layer) for edit in cell):
        return False
    new, every = entry, torch.arange(len(prompts), device=entry.device)
    touched = torch.zeros(entry.shape[:2], dtype=torch.bool, device=entry.device)
    for edit in _in_order(cell):
        where = edit.where(prompts).to(entry.device)
        new, touched = edit.apply(new, where, every), touched | where
    return not bool(changed(new[touched], entry[touched]).any())


def _entered(site: Site, n_layers: int) -> Site:
    """The stream after one block is the stream before the next: no need to run the block for it."""
    if site.name == "resid_post" and site.layer + 1 < n_layers:
        return Site("resid_pre", site.layer + 1)
    return site


def _in_order(cell: Sequence[Edit]) -> list[Edit]:
    """Edits of what a block leaves come before those of what enters the next."""
    return sorted(cell, key=lambda edit: edit.site.name != "resid_post")


def _columns_needed(prompts: Prompts) -> Int[Tensor, " prompt"]:
    """Columns up to the last that is read: nothing after it can change what is read there."""
    return torch.minimum(prompts.lengths, prompts.reads.amax(1) + 1).clamp(min=1)


def _batch(
    model: HookedTransformer,
    prompts: Prompts,
    cells: Sequence[Sequence[Edit]],
    chosen: Sequence[int],
    some: Int[Tensor, " some"],
    layer: int,
    streams: Mapping[int, Float[Tensor, "prompt pos d_model"]],
    spares: bool,
) -> Float[Tensor, "row read vocab"]:
    """Logits of the chosen cells, cell by cell, on some prompts."""
    n, n_layers = len(some), int(model.cfg.n_layers)
    span = int(_columns_needed(prompts)[some].max())
    index = some.to(model_device(model))
    entry = None if layer == 0 else streams[layer][index, :span].repeat(len(chosen), 1, 1)
    touching: dict[Site, list[tuple[slice, Edit]]] = {}
    for place, number in enumerate(chosen):
        rows = slice(place * n, (place + 1) * n)
        for e in _in_order(cells[number]):
            touching.setdefault(_entered(e.site, n_layers), []).append((rows, e))

    def change(parts: list[tuple[slice, Edit]]) -> Change:
        def act(old: Tensor) -> Tensor:
            new = old.clone()
            for rows, e in parts:
                new[rows] = e.apply(new[rows], e.where(prompts)[some, :span], index)
            return new

        return act

    changes: dict[Site, list[Change]] = {}
    tokens = {}
    if spares and not any(site.name == NAME for site in touching):
        moved = torch.cat([_moved(cells[number], prompts, some, span) for number in chosen]).to(index.device)
        below = [low for low in range(layer, n_layers - 1) if low + 1 in streams]
        tokens = _spared(moved, prompts.reads[some].to(index.device), set(touching), below, n_layers - 1)
        for low in tokens:
            if low + 1 < n_layers:
                changes[Site("resid_pre", low + 1)] = [put_back(streams[low + 1][index, :span], moved)]
    for site, parts in touching.items():
        changes.setdefault(site, []).append(change(parts))
    with only_at(model, tokens):
        found = forward(
            model,
            prompts.tokens[some, :span].repeat(len(chosen), 1),
            keep=[_LOGITS],
            changes=changes,
            reads=prompts.reads[some].repeat(len(chosen), 1),
            start=layer,
            residual=entry,
        )
    return found[_LOGITS]


def _moved(cell: Sequence[Edit], prompts: Prompts, some: Int[Tensor, " some"], span: int) -> Bool[Tensor, "some pos"]:
    """Columns that a cell can change: from its first on, up to the last that is needed."""
    touched = torch.stack([e.where(prompts)[some, :span] for e in cell]).any(0)
    return (touched.cumsum(1) > 0) & (torch.arange(span) < _columns_needed(prompts)[some, None])


def _spared(
    moved: Bool[Tensor, "row pos"],
    reads: Int[Tensor, "some read"],
    edited: set[Site],
    below: Sequence[int],
    top: int,
) -> dict[int, Bool[Tensor, "row pos"]]:
    """The tokens that the MLPs of these layers need, where these are not all: in the top one those that are read."""
    read = (reads[:, :, None] == torch.arange(moved.shape[1], device=moved.device)).any(1)
    last = read.repeat(len(moved) // len(read), 1)
    tokens = dict.fromkeys(below, moved) | {top: last}
    return {
        low: some
        for low, some in tokens.items()
        if float(some.float().mean()) < _WORTH and not any(Site(name, low) in edited for name in _INSIDE)
    }
