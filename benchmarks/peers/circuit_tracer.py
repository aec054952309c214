"""circuit-tracer: `attribute` on its replacement model of TransformerLens, every node kept.

Encoders and decoders are held in memory, which it does not do by itself for decoders, so that no file is read while it
is timed. It leaves out what features and errors do at the first column, and all biases. It differentiates a batch of
copies of the prompt once for every batch of targets; on a processor smaller batches than its default of 512 are faster.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from circuit_tracer.attribution.attribute import attribute
from circuit_tracer.replacement_model.replacement_model_transformerlens import TransformerLensReplacementModel
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

from benchmarks.inputs import Case, Inputs, shared_edges
from benchmarks.worker import Work, serve, whole


class Tokenizer:
    """Stands for the one that a drawn model lacks: no token is put before a prompt, and none is spelled."""

    def __init__(self, size: int) -> None:
        self.vocab_size, self.all_special_ids, self.padding_side = size, range(size), "right"

    def decode(self, ids: Any) -> str:
        return str(ids)


def load(inputs: Inputs) -> Any:
    shape, config = inputs.shape, inputs.config()
    made = HookedTransformerConfig(
        n_layers=shape.layers, d_model=shape.width, n_heads=shape.heads, d_head=shape.width // shape.heads,
        d_mlp=shape.neurons, d_vocab=shape.vocabulary, n_ctx=config.n_positions, act_fn="gelu_new",
        normalization_type="LN", eps=config.layer_norm_epsilon, device=inputs.device, model_name="drawn",
    )  # fmt: skip
    model = TransformerLensReplacementModel(made)
    model.load_and_process_state_dict(
        convert_gpt2_weights(inputs.model(), made), fold_ln=False, center_writing_weights=False, center_unembed=False,
        fold_value_biases=False,
    )  # fmt: skip
    if not shape.features:
        return model
    model.tokenizer = Tokenizer(shape.vocabulary)
    files = {layer: str(inputs.transcoders / f"layer_{layer}.safetensors") for layer in range(shape.layers)}
    model._configure_replacement_model(
        load_transcoder_set(
            files, "drawn", "mlp.hook_in", "hook_mlp_out", torch.device(inputs.device), lazy_encoder=False,
            lazy_decoder=False,
        )
    )  # fmt: skip
    return model


def graphs(model: Any, inputs: Inputs, case: Case, batch: int) -> Work:
    prompt = inputs.pairs(case).clean[0]

    def run() -> torch.Tensor:
        graph = attribute(prompt, model, batch_size=batch)
        logits = len(graph.logit_probabilities)
        nodes = len(graph.adjacency_matrix)
        rows = torch.cat([torch.arange(len(graph.active_features)), torch.arange(nodes - logits, nodes)])
        return shared_edges(graph.adjacency_matrix, graph.active_features, inputs.shape, case.tokens, rows)

    return whole(run)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=512)
    batch = parser.parse_known_args()[0].batch
    serve(load, {"graphs": partial(graphs, batch=batch)}, ["circuit-tracer", "transformer-lens", "torch"])


if __name__ == "__main__":
    main()
