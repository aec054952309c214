"""auto-circuit: edge attribution as the gradient of edge masks, on the HookedTransformer of TransformerLens 2.

Its "clean" run is the one that is differentiated and its "corrupt" run the one that edges are ablated with, so here
they are the corrupted and the clean prompts. Its loss is the negative logit difference, averaged over the pairs of a
batch.
"""

from __future__ import annotations

from typing import Any

import torch
from auto_circuit.data import PromptDataLoader, PromptDataset
from auto_circuit.prune_algos.mask_gradient import mask_gradient_prune_scores
from auto_circuit.types import AblationType
from auto_circuit.utils.graph_utils import patchable_model
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

from benchmarks.inputs import Case, Inputs, edge_names
from benchmarks.worker import Work, serve, whole


def load(inputs: Inputs) -> Any:
    shape, config = inputs.shape, inputs.config()
    made = HookedTransformerConfig(
        n_layers=shape.layers, d_model=shape.width, n_heads=shape.heads, d_head=shape.width // shape.heads,
        d_mlp=shape.neurons, d_vocab=shape.vocabulary, n_ctx=config.n_positions, act_fn="gelu_new",
        normalization_type="LN", eps=config.layer_norm_epsilon, device=inputs.device,
    )  # fmt: skip
    model = HookedTransformer(made)
    model.load_and_process_state_dict(
        convert_gpt2_weights(inputs.model(), made), fold_ln=False, center_writing_weights=False, center_unembed=False,
        fold_value_biases=False,
    )  # fmt: skip
    for part in (model.set_use_attn_result, model.set_use_split_qkv_input, model.set_use_hook_mlp_in):
        part(True)
    return patchable_model(
        model.eval().requires_grad_(False), factorized=True, slice_output="last_seq", separate_qkv=True,
        device=torch.device(inputs.device),
    )  # fmt: skip


def edges(model: Any, inputs: Inputs, case: Case) -> Work:
    pairs = inputs.pairs(case)
    data = PromptDataset(pairs.corrupted, pairs.clean, list(pairs.answers[:, None]), list(pairs.foils[:, None]))
    batches = PromptDataLoader(data, seq_len=None, diverge_idx=0, batch_size=case.pairs, shuffle=False)
    place = {edge: number for number, edge in enumerate(edge_names(inputs.shape.layers, inputs.shape.heads))}
    numbers = [(place[_name(edge.src.name), _name(edge.dest.name)], edge) for edge in model.edges]

    def run() -> torch.Tensor:
        scores = mask_gradient_prune_scores(
            model, batches, official_edges=None, grad_function="logit", answer_function="avg_diff", mask_val=0.0,
            ablation_type=AblationType.RESAMPLE, clean_corrupt="corrupt",
        )  # fmt: skip
        scores = {name: tensor.tolist() for name, tensor in scores.items()}
        found = torch.zeros(1, len(place))
        for number, edge in numbers:
            found[0, number] = _at(scores[edge.dest.module_name], edge.patch_idx)
        return -found

    return whole(run)


def _at(nested: Any, place: tuple[int | None, ...]) -> float:
    for number in place:
        nested = nested if number is None else nested[number]
    return nested


def _name(theirs: str) -> str:
    if theirs in ("Resid Start", "Resid End"):
        return "embed" if theirs == "Resid Start" else "logits"
    kind, _, place = theirs.replace("MLP ", "MLP").partition("A")
    if not place:
        return kind.lower()
    layer, head, *part = place.split(".")
    return f"L{layer}H{head}" + (f".{part[0].lower()}" if part else "")


JOBS = {"edges": edges}

if __name__ == "__main__":
    serve(load, JOBS, ["auto-circuit", "transformer-lens", "torch"])
