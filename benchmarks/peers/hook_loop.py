"""The plain loop that one writes oneself: a hook, and a forward pass of the Hugging Face model, for each cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.inputs import Case, Inputs, Pairs
from benchmarks.worker import Work, cell_loop, serve

Edit = Callable[[torch.Tensor], torch.Tensor]


def load(inputs: Inputs) -> Any:
    return inputs.model()


def _run(model: Any, tokens: torch.Tensor, place: Any, edit: Edit) -> torch.Tensor:
    handle = place.register_forward_pre_hook(lambda _, given: (edit(given[0]), *given[1:]))
    try:
        return model(tokens, use_cache=False).logits
    finally:
        handle.remove()


def _entries(model: Any, tokens: torch.Tensor, places: Sequence[Any]) -> list[torch.Tensor]:
    """What enters each place."""
    kept: list[torch.Tensor] = []
    handles = [place.register_forward_pre_hook(lambda _, given: kept.append(given[0])) for place in places]
    try:
        model(tokens, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return kept


def _heads(model: Any) -> list[Any]:
    return [block.attn.c_proj for block in model.transformer.h]


def _patched(
    model: Any, pairs: Pairs, places: Sequence[Any], cells: int, where: Callable[[int], tuple[int, Any]]
) -> Work:
    """`where` gives the layer of a cell and the index that is copied there."""

    @torch.inference_mode()
    def once() -> list[torch.Tensor]:
        return _entries(model, pairs.clean, places)

    @torch.inference_mode()
    def grid(kept: list[torch.Tensor], chosen: Sequence[int] | None) -> torch.Tensor:
        def cell(number: int) -> torch.Tensor:
            layer, index = where(number)

            def put(old: torch.Tensor) -> torch.Tensor:
                new = old.clone()
                new[index] = kept[layer][index]
                return new

            return pairs.score(_run(model, pairs.corrupted, places[layer], put))

        return cell_loop(pairs, cells, cell, chosen)

    return Work(grid, once)


def residual(model: Any, inputs: Inputs, case: Case) -> Work:
    def where(cell: int) -> tuple[int, Any]:
        layer, position = divmod(cell, case.tokens)
        return layer, (slice(None), position)

    return _patched(model, inputs.pairs(case), list(model.transformer.h), inputs.shape.layers * case.tokens, where)


def heads(model: Any, inputs: Inputs, case: Case) -> Work:
    shape, size = inputs.shape, inputs.shape.width // inputs.shape.heads

    def where(cell: int) -> tuple[int, Any]:
        place, head = divmod(cell, shape.heads)
        layer, position = divmod(place, case.tokens)
        return layer, (slice(None), position, slice(head * size, (head + 1) * size))

    return _patched(model, inputs.pairs(case), _heads(model), shape.layers * case.tokens * shape.heads, where)


def ablation(model: Any, inputs: Inputs, case: Case) -> Work:
    pairs, shape = inputs.pairs(case), inputs.shape
    size = shape.width // shape.heads

    @torch.inference_mode()
    def grid(_: None, chosen: Sequence[int] | None) -> torch.Tensor:
        def cell(number: int) -> torch.Tensor:
            layer, head = divmod(number, shape.heads)

            def erase(old: torch.Tensor) -> torch.Tensor:
                new = old.clone()
                new[..., head * size : (head + 1) * size] = 0
                return new

            return pairs.score(_run(model, pairs.clean, _heads(model)[layer], erase))

        return cell_loop(pairs, shape.layers * shape.heads, cell, chosen)

    return Work(grid)


JOBS = {"residual": residual, "heads": heads, "ablation": ablation}

if __name__ == "__main__":
    serve(load, JOBS, ["transformers", "torch"])
