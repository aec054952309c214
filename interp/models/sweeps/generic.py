"""The sweep that serves every architecture: the bridge itself, with the work below the edit left out.

One base run keeps the residual stream. Cells are then grouped by the first block they change; several cells and all
their prompts form one batch that enters that block with the base run's stream, and only the columns that are read are
unembedded. Where an architecture cannot be entered in the middle (found out on the real prompts before it starts),
every cell runs from the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from rich.progress import Progress
from torch import Tensor

from interp.models.edits import Edit
from interp.models.load import HookedTransformer
from interp.models.run import Change, batch_rows, capture, forward, model_device, read_columns
from interp.models.sweeps.grid import Edits, Readout, Sweep, changed, start_layer, unlike
from interp.prompts import Prompts
from interp.sites import Site
from interp.tensors import Activations

_LOGITS = Site("logits")


def generic_sweep(
    model: HookedTransformer, edits: Edits, readout: Readout, *, memory: int, progress: bool, why: str
) -> Sweep:
    """Score every cell through the bridge."""
    prompts = edits.prompts
    n, n_layers = len(prompts), int(model.cfg.n_layers)
    here = model_device(model)
    starts = [start_layer(cell, n_layers) for cell in edits.cells]
    entries = sorted(set(starts))
    base = capture(model, prompts, [_LOGITS, *(Site("resid_pre", layer) for layer in entries)], memory=memory)
    why_not = _cannot_enter(model, prompts, base) if entries[-1] else ""
    if why_not:
        starts, entries = [0] * len(starts), [0]
    unedited = readout.score(base[_LOGITS], torch.arange(n, device=here)).cpu()
    values = torch.full((n, len(edits.cells), len(readout.metrics)), torch.nan, dtype=unedited.dtype)
    rows = batch_rows(model, prompts.tokens.shape[1], read_columns(prompts), memory)
    needed = _columns_needed(prompts)
    with Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task("sweeping edits", total=len(edits.cells) * n)
        for layer in entries:
            stream = None if layer == 0 else torch.nan_to_num(base["resid_pre", layer])
            members = [i for i, start in enumerate(starts) if start == layer]
            if not why_not:
                entry = torch.nan_to_num(base["resid_pre", layer])
                same = [i for i in members if _unchanged(edits.cells[i], prompts, layer, n_layers, entry)]
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
                    found = _batch(model, prompts, edits.cells, cells, some, layer, stream)
                    index = some.to(here).repeat(len(cells))
                    scores = readout.score(found, index).reshape(len(cells), len(some), -1)
                    values[some[:, None], torch.tensor(cells)] = scores.transpose(0, 1).cpu()
                    bar.advance(task, len(cells) * len(some))
    return Sweep(
        values,
        unedited,
        tuple(metric.name for metric in readout.metrics),
        path="generic",
        reason=f"{why}; " + (why_not or "the bridge itself from the edited block on, several cells in one batch"),
    )


def _cannot_enter(model: HookedTransformer, prompts: Prompts, base: Activations) -> str:
    """Why the model cannot be entered at a block above the first; empty where it can, shown on the longest prompts."""
    some = prompts.lengths.argsort(descending=True)[:2]
    layer = base.layers("resid_pre")[-1]
    wanted = base[_LOGITS][some.to(base[_LOGITS].device)]
    try:
        found = forward(
            model,
            prompts.tokens[some],
            keep=[_LOGITS],
            reads=prompts.reads[some],
            start=layer,
            residual=torch.nan_to_num(base["resid_pre", layer])[some.to(model_device(model))],
        )[_LOGITS]
    except Exception as error:  # whatever the architecture makes of it, the whole pass still serves
        return f"the bridge from the tokens on: block {layer} cannot be entered ({type(error).__name__})"
    if unlike(found, wanted):
        return f"the bridge from the tokens on: entering block {layer} does not reproduce the model's logits"
    return ""


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
    some: Tensor,
    layer: int,
    stream: Tensor | None,
) -> Tensor:
    """Logits of the chosen cells, cell by cell, on some prompts."""
    n = len(some)
    span = int(_columns_needed(prompts)[some].max())
    index = some.to(model_device(model))
    entry = None if stream is None else stream[index, :span].repeat(len(chosen), 1, 1)
    touching: dict[Site, list[tuple[slice, Edit]]] = {}
    for place, number in enumerate(chosen):
        rows = slice(place * n, (place + 1) * n)
        for e in _in_order(cells[number]):
            touching.setdefault(_entered(e.site, int(model.cfg.n_layers)), []).append((rows, e))

    def change(parts: list[tuple[slice, Edit]]) -> Change:
        def act(old: Tensor) -> Tensor:
            new = old.clone()
            for rows, e in parts:
                new[rows] = e.apply(new[rows], e.where(prompts)[some, :span], index)
            return new

        return act

    found = forward(
        model,
        prompts.tokens[some, :span].repeat(len(chosen), 1),
        keep=[_LOGITS],
        changes={site: [change(parts)] for site, parts in touching.items()},
        reads=prompts.reads[some].repeat(len(chosen), 1),
        start=layer,
        residual=entry,
    )
    return found[_LOGITS]
