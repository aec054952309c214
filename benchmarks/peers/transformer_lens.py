"""TransformerLens 4: its own patching, attribution patching and logit lens on a TransformerBridge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.patching import (
    generic_activation_patch,
    get_act_patch_attn_head_out_by_pos,
    get_act_patch_resid_pre,
    make_df_from_ranges,
)
from transformer_lens.tools.analysis import EdgeAttributionConfig, attribution_patch, logit_lens

from benchmarks.inputs import Case, Inputs, edge_names
from benchmarks.worker import Work, serve, whole


def load(inputs: Inputs) -> Any:
    original = inputs.model()
    original.set_attn_implementation("eager")
    model = build_bridge_from_module(original, architecture="GPT2LMHeadModel", hf_config=original.config)
    return model.eval().requires_grad_(True)  # attribution patching differentiates with respect to activations


def _patching(patch: Any, site: str, axes: list[str]) -> Any:
    """A job that is one of TransformerLens' patching functions; some cells alone go through its `index_df`."""
    setter, name = patch.keywords["patch_setter"], patch.keywords["activation_name"]

    def job(model: Any, inputs: Inputs, case: Case) -> Work:
        pairs = inputs.pairs(case)
        sizes = {"layer": inputs.shape.layers, "pos": case.tokens, "head": inputs.shape.heads}
        every = make_df_from_ranges([sizes[axis] for axis in axes], axes)

        @torch.inference_mode()
        def once() -> Any:
            return model.run_with_cache(pairs.clean, names_filter=lambda name: name.endswith(site))[1]

        @torch.inference_mode()
        def grid(cache: Any, chosen: Sequence[int] | None) -> torch.Tensor:
            if chosen is None:
                return patch(model, pairs.corrupted, cache, pairs.score, reduce="none").values.flatten(0, -2).T
            found: Any = generic_activation_patch(
                model,
                pairs.corrupted,
                cache,
                pairs.score,
                setter,
                name,
                index_df=every.iloc[list(chosen)],
                reduce="none",
            )
            return found.values.T

        return Work(grid, once)

    return job


def _attribution(model: Any, inputs: Inputs, case: Case, granularity: Any) -> list[Any]:
    """Pair by pair, as attribution_patch itself does: its metric is not told which pair it sees."""
    pairs = inputs.pairs(case)

    def one(pair: int) -> Any:
        def score(logits: torch.Tensor) -> torch.Tensor:
            return logits[0, -1, pairs.answers[pair]] - logits[0, -1, pairs.foils[pair]]

        alone = slice(pair, pair + 1)
        config = EdgeAttributionConfig(granularity=granularity)
        return attribution_patch(model, pairs.clean[alone], pairs.corrupted[alone], score, config)

    return [one(pair) for pair in range(case.pairs)]


def nodes(model: Any, inputs: Inputs, case: Case) -> Work:
    def run() -> torch.Tensor:
        found = torch.zeros(case.pairs, inputs.shape.layers, inputs.shape.heads)
        for pair, part in enumerate(_attribution(model, inputs, case, "node")):
            for node, score in part.node_scores.items():
                if node.kind == "attn_head_out":
                    found[pair, node.layer, node.head] += score
        return found.flatten(1)

    return whole(run)


_KINDS = {"q_input": "q", "k_input": "k", "v_input": "v"}


def _name(node: Any) -> str:
    if node.kind in ("embed", "logits"):
        return node.kind
    if node.head is None:
        return f"mlp{node.layer}"
    return f"L{node.layer}H{node.head}" + (f".{_KINDS[node.kind]}" if node.kind in _KINDS else "")


def edges(model: Any, inputs: Inputs, case: Case) -> Work:
    place = {edge: i for i, edge in enumerate(edge_names(inputs.shape.layers, inputs.shape.heads))}

    def run() -> torch.Tensor:
        found = torch.zeros(case.pairs, len(place))
        for pair, part in enumerate(_attribution(model, inputs, case, "edge")):
            for (source, target), score in part.edge_scores.items():
                found[pair, place[_name(source), _name(target)]] += score
        return found

    return whole(run)


def lens(model: Any, inputs: Inputs, case: Case) -> Work:
    pairs = inputs.pairs(case)

    def run() -> torch.Tensor:
        found = logit_lens(model, pairs.clean, targets=pairs.answers, return_type="log_probs")
        return found.readout.values[..., 0].T

    return whole(run)


JOBS = {
    "residual": _patching(get_act_patch_resid_pre, "hook_resid_pre", ["layer", "pos"]),
    "heads": _patching(get_act_patch_attn_head_out_by_pos, "hook_z", ["layer", "pos", "head"]),
    "nodes": nodes,
    "edges": edges,
    "lens": lens,
}

if __name__ == "__main__":
    serve(load, JOBS, ["transformer-lens", "torch"])
