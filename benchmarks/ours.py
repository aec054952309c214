"""interp's side of every job: the public calls, from tokens to values."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.inputs import STEPS, Case, Inputs, edge_names, shared_edges
from benchmarks.rate import rates
from benchmarks.worker import Work, serve, whole
from interp.analyses.ablation import ablation
from interp.analyses.attribution_patching import attribution_patching
from interp.analyses.edge_attribution import edge_attribution
from interp.analyses.logit_lens import logit_lens
from interp.analyses.patching import patching
from interp.analyses.probing import probing
from interp.analyses.token_attribution import token_attribution
from interp.circuits.formats import read_transcoders
from interp.circuits.graph import attribution_graph
from interp.metrics import Targets
from interp.models.edits import Copy, Edit, Value, Zero
from interp.models.judge import Judge
from interp.models.load import HookedTransformer, load_model
from interp.models.run import capture
from interp.models.sweeps import Edits, Path, Readout, sweep
from interp.prompts import PromptPairs, Prompts
from interp.sites import Site
from interp.tensors import Activations


def load(inputs: Inputs) -> HookedTransformer:
    return load_model(inputs.model(), device=inputs.device)


def pairs_of(inputs: Inputs, case: Case) -> PromptPairs:
    """The case's pairs as interp has them."""
    given = inputs.pairs(case)
    return PromptPairs(
        Prompts.from_tokens(given.clean, answers=given.answers),
        Prompts.from_tokens(given.corrupted, answers=given.foils),
    )


def swept(model: HookedTransformer, inputs: Inputs, job: str, case: Case, memory: int) -> Tensor:
    """A sweep under a budget of memory."""
    pairs = pairs_of(inputs, case)
    readout = Readout.of(pairs, ["logit_diff"])
    if job == "ablation":
        edits = Edits(pairs.clean, _cells(inputs, case, job, Zero()))
    else:
        kept = capture(model, pairs.clean, ["resid_pre" if job == "residual" else "z"], memory=memory)
        edits = Edits(pairs.corrupted, _cells(inputs, case, job, Copy(kept)))
    return sweep(model, edits, readout, memory=memory).values[..., 0]


def _cells(inputs: Inputs, case: Case, job: str, value: Value) -> list[list[Edit]]:
    """The cells of a job, in the order in which values are compared."""
    layers, heads, positions = range(inputs.shape.layers), range(inputs.shape.heads), range(case.tokens)
    if job == "residual":
        return [[Edit(Site("resid_pre", n), value, at=p)] for n in layers for p in positions]
    if job == "heads":
        return [[Edit(Site("z", n), value, at=p, units=h)] for n in layers for p in positions for h in heads]
    return [[Edit(Site("z", n), value, units=h)] for n in layers for h in heads]


def _residual(model: HookedTransformer, inputs: Inputs, case: Case) -> Work:
    pairs = pairs_of(inputs, case)
    return whole(lambda: patching(model, pairs, site="resid_pre", control=False).patched.flatten(1))


def _copying(job: str, site: str, path: Path) -> Any:
    """The cells of a job, each a copy of the clean run's place, as a sweep of its own."""

    def made(model: HookedTransformer, inputs: Inputs, case: Case) -> Work:
        pairs = pairs_of(inputs, case)
        readout = Readout.of(pairs, ["logit_diff"])

        def grid(kept: Activations, chosen: Sequence[int] | None) -> Tensor:
            cells = _chosen(_cells(inputs, case, job, Copy(kept)), chosen)
            return sweep(model, Edits(pairs.corrupted, cells), readout, path=path).values[..., 0]

        return Work(grid, lambda: capture(model, pairs.clean, [site]))

    return made


def _chosen(cells: list[list[Edit]], chosen: Sequence[int] | None) -> list[list[Edit]]:
    return cells if chosen is None else [cells[number] for number in chosen]


def _ablation(model: HookedTransformer, inputs: Inputs, case: Case) -> Work:
    pairs = pairs_of(inputs, case)
    options: dict[str, Any] = {"site": "z", "kind": "zero", "metrics": ["logit_diff"], "targets": Targets.of(pairs)}
    return whole(lambda: ablation(model, pairs.clean, **options).ablated[..., 0].flatten(1))


def _ablation_generic(model: HookedTransformer, inputs: Inputs, case: Case) -> Work:
    pairs = pairs_of(inputs, case)

    def grid(_: None, chosen: Sequence[int] | None) -> Tensor:
        edits = Edits(pairs.clean, _chosen(_cells(inputs, case, "ablation", Zero()), chosen))
        return sweep(model, edits, Readout.of(pairs, ["logit_diff"]), path="generic").values[..., 0]

    return Work(grid)


def _edges(model: HookedTransformer, inputs: Inputs, case: Case) -> Work:
    pairs = pairs_of(inputs, case)
    place = {edge: number for number, edge in enumerate(edge_names(inputs.shape.layers, inputs.shape.heads))}

    def run() -> Tensor:
        result = edge_attribution(model, pairs)
        values = torch.zeros(case.pairs, len(place))
        values[:, [place[edge] for edge in zip(result.sources, result.targets, strict=True)]] = result.values
        return values

    return whole(run)


def _nodes(model: HookedTransformer, inputs: Inputs, case: Case) -> Work:
    pairs = pairs_of(inputs, case)
    return whole(lambda: attribution_patching(model, pairs, site="z").values.flatten(1))


def _probing(model: HookedTransformer, inputs: Inputs, case: Case) -> Work:
    probed, labels = inputs["probed"].cpu(), inputs["labels"].cpu()
    n = len(labels)
    frame = pd.DataFrame({"label": labels.numpy().astype(str), "key": np.arange(n) // 8})
    prompts = Prompts.from_tokens(torch.zeros(n, 1, dtype=torch.long), labels=frame)
    sites = [*(Site("resid_pre", n) for n in range(inputs.shape.layers)), Site("resid_post", inputs.shape.layers - 1)]
    sites += [Site("resid_post", n) for n in range(inputs.shape.layers - 1)]
    stack = [*probed, *probed[1:-1]]
    kept = Activations(prompts, {s: x[:, None] for s, x in zip(sites, stack, strict=True)}, inputs.shape.layers)
    return whole(lambda: probing(kept, "label", at=["last"], key=["key"]).right[..., 0])


def _lens(model: HookedTransformer, inputs: Inputs, case: Case) -> Work:
    prompts = pairs_of(inputs, case).clean

    def run() -> Tensor:
        return logit_lens(capture(model, prompts, ["resid_pre", "resid_post"]), model).log_prob[..., 0]

    return whole(run)


def _tokens(model: HookedTransformer, inputs: Inputs, case: Case) -> Work:
    clean = inputs.pairs(case).clean
    answers, foils = inputs["answers"], inputs["foils"]
    n = len(clean)
    ends = {"text.first": torch.zeros(n, dtype=torch.long), "text.last": torch.full((n,), case.tokens - 1)}
    prompts = Prompts.from_tokens(clean, answers=answers[:1].expand(n), roles=ends)
    judge = Judge(model, "{prompt}", safe=int(foils[0]), unsafe=int(answers[0]))
    return whole(lambda: token_attribution(judge, prompts, baseline="zero", steps=STEPS, most_steps=STEPS).values)


def _graphs(model: HookedTransformer, inputs: Inputs, case: Case) -> Work:
    prompts = Prompts.from_tokens(inputs.pairs(case).clean)
    transcoders = read_transcoders(inputs.transcoders)

    def run() -> Tensor:
        graph = attribution_graph(model, transcoders, prompts)
        return shared_edges(graph.edges, graph.features, inputs.shape, case.tokens)

    return whole(run)


def _rate(model: HookedTransformer, inputs: Inputs, case: Case) -> Work:
    return whole(lambda: np.array(list(rates(inputs.shape.width, inputs.device).values())))


BASIC = {
    "residual": _residual,
    "heads": _copying("heads", "z", "auto"),
    "ablation": _ablation,
    "edges": _edges,
    "nodes": _nodes,
    "probing": _probing,
    "lens": _lens,
    "tokens": _tokens,
    "graphs": _graphs,
    "rate": _rate,
}
GENERIC = {
    "residual": _copying("residual", "resid_pre", "generic"),
    "heads": _copying("heads", "z", "generic"),
    "ablation": _ablation_generic,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--generic", action="store_true")
    generic = parser.parse_known_args(arguments)[0].generic
    serve(load, GENERIC if generic else BASIC, ["transformer-lens", "torch"])


if __name__ == "__main__":
    main()
