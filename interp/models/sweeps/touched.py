"""MLPs that run on some tokens alone: those that an edit can have changed, in an architecture of any form.

An MLP maps each token by itself, so that a token which is the base run's need not go through it again. What the stream
lacks there is put back at the next block's entry, from the base run's stream. Whether a model is causal and its MLPs
look at single tokens is for the caller to find out on real prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.models.load import HookedTransformer
from interp.models.run import Change


@contextmanager
def only_at(model: HookedTransformer, tokens: Mapping[int, Bool[Tensor, "row pos"]]) -> Iterator[None]:
    """In these layers, MLPs see and write these tokens alone, and write zero at all others.

    Hooks inside such an MLP are shown `[1, token, ...]`.
    """
    handles = []
    try:
        for layer, chosen in tokens.items():
            mlp = getattr(model.blocks[layer], "mlp", None)
            if isinstance(mlp, nn.Module):
                handles.append(mlp.register_forward_pre_hook(_gathering(chosen)))
                handles.append(mlp.register_forward_hook(_scattering(chosen)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def put_back(stream: Float[Tensor, "prompt pos d_model"], changed: Bool[Tensor, "row pos"]) -> Change:
    """The base run's stream where nothing has changed; rows are the prompts over and over, cell by cell."""
    kept = changed.unflatten(0, (-1, len(stream)))[..., None]
    return lambda old: torch.where(kept, old.unflatten(0, (-1, len(stream))), stream).flatten(0, 1)


def _gathering(chosen: Bool[Tensor, "row pos"]) -> Callable[..., Any]:
    def gather(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return given[0][chosen][None], *given[1:]

    return gather


def _scattering(chosen: Bool[Tensor, "row pos"]) -> Callable[..., Any]:
    def scatter(module: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        several = isinstance(output, tuple)
        made = output[0] if several else output
        whole = made.new_zeros(*chosen.shape, made.shape[-1])
        whole[chosen] = made[0]
        return (whole, *output[1:]) if several else whole

    return scatter
