"""captum: integrated gradients of the tokens' embeddings, Gauss-Legendre nodes, from the zero embedding."""

from __future__ import annotations

import warnings
from typing import Any

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from captum.attr import IntegratedGradients

from benchmarks.inputs import STEPS, Case, Inputs
from benchmarks.worker import Work, serve, whole


def load(inputs: Inputs) -> Any:
    return inputs.model()


def tokens(model: Any, inputs: Inputs, case: Case) -> Work:
    pairs = inputs.pairs(case)
    answer, foil = int(pairs.answers[0]), int(pairs.foils[0])

    def score(embedded: torch.Tensor) -> torch.Tensor:
        logits = model(inputs_embeds=embedded, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits[:, answer] - logits[:, foil]

    def run() -> torch.Tensor:
        embedded = model.transformer.wte(pairs.clean)
        found = IntegratedGradients(score).attribute(
            embedded, torch.zeros_like(embedded), n_steps=STEPS, method="gausslegendre"
        )
        return found.sum(-1)

    return whole(run)


JOBS = {"tokens": tokens}

if __name__ == "__main__":
    serve(load, JOBS, ["captum", "torch"])
