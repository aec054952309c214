"""What a model computes on more prompts than memory holds activations of: some prompts at a time, each run once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from rich.progress import track

from interp.models.load import HookedTransformer
from interp.models.run import MEMORY, capture, check_context, check_memory, numbers
from interp.prompts import Prompts
from interp.sites import Site, every
from interp.tensors import Activations


def harvest(
    model: HookedTransformer,
    prompts: Prompts,
    sites: Sequence[str | Site],
    *,
    layers: Sequence[int] | None = None,
    memory: int = MEMORY,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Iterator[Activations]:
    """The activations that `capture` gives, of consecutive prompts, as many at a time as half of `memory` holds.

    Whoever lets go of one part before asking for the next needs memory for one part alone, however many prompts there
    are. Each part is padded to its own longest prompt. The other arguments are those of `capture`.
    """
    wanted = every(sites, model.cfg.n_layers, layers)
    check_memory(memory)
    check_context(model, prompts)
    itemsize = torch.empty(0, dtype=model.cfg.dtype).element_size()
    each = itemsize * sum(numbers(model, site, prompts.tokens.shape[1], prompts.reads.shape[1]) for site in wanted)
    parts: Any = torch.arange(len(prompts)).split(max(1, memory // 2 // max(1, each)))
    if progress and len(parts) > 1:
        parts = track(parts, description="running prompts", transient=True)
    for some in parts:
        yield capture(model, prompts.take(some), wanted, memory=max(1, memory // 2), device=device)
