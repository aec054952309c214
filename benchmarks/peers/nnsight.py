"""nnsight: a trace for each cell, in which the hidden state is replaced, as in its tutorial on activation patching."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from nnsight import NNsight, save

from benchmarks.inputs import Case, Inputs, Pairs
from benchmarks.worker import Work, cell_loop, serve


def load(inputs: Inputs) -> Any:
    return NNsight(inputs.model())


def _score(logits: Any, pairs: Pairs) -> Any:
    rows = torch.arange(len(pairs.answers))
    return logits[rows, -1, pairs.answers] - logits[rows, -1, pairs.foils]


def residual(model: Any, inputs: Inputs, case: Case) -> Work:
    pairs, layers = inputs.pairs(case), inputs.shape.layers

    @torch.no_grad()
    def once() -> list[torch.Tensor]:
        with model.trace(input_ids=pairs.clean):
            kept = save([block.input for block in model.transformer.h])
        return kept

    @torch.no_grad()
    def grid(kept: list[torch.Tensor], chosen: Sequence[int] | None) -> torch.Tensor:
        def cell(number: int) -> torch.Tensor:
            layer, position = divmod(number, case.tokens)
            with model.trace(input_ids=pairs.corrupted):
                model.transformer.h[layer].input[:, position] = kept[layer][:, position]
                score = _score(model.lm_head.output, pairs).save()
            return score

        return cell_loop(pairs, layers * case.tokens, cell, chosen)

    return Work(grid, once)


def heads(model: Any, inputs: Inputs, case: Case) -> Work:
    pairs, shape = inputs.pairs(case), inputs.shape
    size = shape.width // shape.heads

    @torch.no_grad()
    def once() -> list[torch.Tensor]:
        with model.trace(input_ids=pairs.clean):
            kept = save([block.attn.c_proj.input for block in model.transformer.h])
        return kept

    @torch.no_grad()
    def grid(kept: list[torch.Tensor], chosen: Sequence[int] | None) -> torch.Tensor:
        def cell(number: int) -> torch.Tensor:
            place, head = divmod(number, shape.heads)
            layer, position = divmod(place, case.tokens)
            own = slice(head * size, (head + 1) * size)
            with model.trace(input_ids=pairs.corrupted):
                model.transformer.h[layer].attn.c_proj.input[:, position, own] = kept[layer][:, position, own]
                score = _score(model.lm_head.output, pairs).save()
            return score

        return cell_loop(pairs, shape.layers * case.tokens * shape.heads, cell, chosen)

    return Work(grid, once)


def ablation(model: Any, inputs: Inputs, case: Case) -> Work:
    pairs, shape = inputs.pairs(case), inputs.shape
    size = shape.width // shape.heads

    @torch.no_grad()
    def grid(_: None, chosen: Sequence[int] | None) -> torch.Tensor:
        def cell(number: int) -> torch.Tensor:
            layer, head = divmod(number, shape.heads)
            with model.trace(input_ids=pairs.clean):
                model.transformer.h[layer].attn.c_proj.input[:, :, head * size : (head + 1) * size] = 0
                score = _score(model.lm_head.output, pairs).save()
            return score

        return cell_loop(pairs, shape.layers * shape.heads, cell, chosen)

    return Work(grid)


JOBS: dict[str, Callable[[Any, Inputs, Case], Work]] = {"residual": residual, "heads": heads, "ablation": ablation}

if __name__ == "__main__":
    serve(load, JOBS, ["nnsight", "transformers", "torch"])
