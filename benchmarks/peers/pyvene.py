"""pyvene: an IntervenableModel for each cell, with the clean prompts as its source, as in its tutorials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyvene import IntervenableConfig, IntervenableModel, RepresentationConfig, VanillaIntervention, ZeroIntervention

from benchmarks.inputs import Case, Inputs
from benchmarks.worker import Work, cell_loop, serve


def load(inputs: Inputs) -> Any:
    return inputs.model()


def _intervenable(model: Any, layer: int, component: str, unit: str, intervention: Any) -> Any:
    place = RepresentationConfig(layer, component, unit)
    made = IntervenableModel(IntervenableConfig([place], intervention), model=model)
    made.set_device(model.device)
    return made


def residual(model: Any, inputs: Inputs, case: Case) -> Work:
    pairs = inputs.pairs(case)

    @torch.no_grad()
    def grid(_: None, chosen: Sequence[int] | None) -> torch.Tensor:
        def cell(number: int) -> torch.Tensor:
            layer, position = divmod(number, case.tokens)
            patched = _intervenable(model, layer, "block_input", "pos", VanillaIntervention)
            found = patched({"input_ids": pairs.corrupted}, [{"input_ids": pairs.clean}], {"sources->base": position})
            return pairs.score(found[1].logits)

        return cell_loop(pairs, inputs.shape.layers * case.tokens, cell, chosen)

    return Work(grid)


def heads(model: Any, inputs: Inputs, case: Case) -> Work:
    pairs, shape = inputs.pairs(case), inputs.shape

    @torch.no_grad()
    def grid(_: None, chosen: Sequence[int] | None) -> torch.Tensor:
        def cell(number: int) -> torch.Tensor:
            place, head = divmod(number, shape.heads)
            layer, position = divmod(place, case.tokens)
            patched = _intervenable(model, layer, "head_attention_value_output", "h.pos", VanillaIntervention)
            # for every intervention, for every prompt: the heads, and the positions
            where = [[[[head]] * case.pairs, [[position]] * case.pairs]]
            found = patched(
                {"input_ids": pairs.corrupted}, [{"input_ids": pairs.clean}], {"sources->base": (where, where)}
            )
            return pairs.score(found[1].logits)

        return cell_loop(pairs, shape.layers * case.tokens * shape.heads, cell, chosen)

    return Work(grid)


def ablation(model: Any, inputs: Inputs, case: Case) -> Work:
    pairs, shape = inputs.pairs(case), inputs.shape
    everywhere = [list(range(case.tokens))] * case.pairs

    @torch.no_grad()
    def grid(_: None, chosen: Sequence[int] | None) -> torch.Tensor:
        def cell(number: int) -> torch.Tensor:
            layer, head = divmod(number, shape.heads)
            patched = _intervenable(model, layer, "head_attention_value_output", "h.pos", ZeroIntervention)
            found = patched({"input_ids": pairs.clean}, None, {"base": [[[[head]] * case.pairs, everywhere]]})
            return pairs.score(found[1].logits)

        return cell_loop(pairs, shape.layers * shape.heads, cell, chosen)

    return Work(grid)


JOBS: dict[str, Callable[[Any, Inputs, Case], Work]] = {"residual": residual, "heads": heads, "ablation": ablation}

if __name__ == "__main__":
    serve(load, JOBS, ["pyvene", "transformers", "torch"])
