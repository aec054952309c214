"""How much each feature adds to one answer over another: its total effect on the difference of two logits.

As in a graph's linearised replacement model (attention patterns, norm scales, errors and the set of active features
held; Ameisen et al., "Circuit Tracing", 2025), a feature acts along all paths, through features above it as well. One
adjoint a prompt gives all features at once, equal to what the whole graph says (`interp.circuits.graph`).

It is not what an ablation does in the running model, where patterns, scales and the active set move; and effects do not
sum to the difference, since what passes through several features is counted with each of them.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.activity import Activity, entered
from interp.circuits.frozen import Frozen
from interp.circuits.transcoders import Transcoders
from interp.errors import ConfigError, PromptError
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY, undisturbed
from interp.prompts import Prompts


def answer_effects(
    model: HookedTransformer,
    transcoders: Transcoders,
    prompts: Prompts,
    activity: Activity,
    answer: int,
    other: int,
    *,
    memory: int = MEMORY,
) -> Float[np.ndarray, "prompt feature"]:
    """Signed total effect of each feature of `activity` on logit(answer) - logit(other) at the first read, in logits
    (before a soft cap).

    Summed over a prompt's tokens, without the first ones that `activity` leaves out; 0 where a feature is silent.
    """
    if len(prompts) != len(activity.largest):
        raise PromptError(f"the activity is of {len(activity.largest)} prompts, not of these {len(prompts)}")
    if max(answer, other) >= int(model.cfg.d_vocab) or min(answer, other) < 0 or answer == other:
        raise ConfigError(f"the answers are two tokens of the model's vocabulary, not {answer} and {other}")
    runs = entered(model, prompts, memory)
    found = np.zeros(activity.largest.shape, np.float32)
    apart = runs.net.unembedding[answer] - runs.net.unembedding[other]
    chosen = [activity.features[:, 0] == layer for layer in range(len(transcoders.layers))]
    with undisturbed(model):
        for row, read in enumerate(runs.reads[:, 0].tolist()):
            frozen = Frozen.of(runs.net, runs.entry[row, : read + 1], transcoders.reads)
            effects = _of_prompt(frozen, transcoders, read, apart)
            for layer, mine in enumerate(chosen):
                kept = effects[layer][activity.skipped :].sum(0).cpu().numpy()
                found[row, mine] = kept[activity.features[mine, 1]]
    return found


def _of_prompt(
    frozen: Frozen, transcoders: Transcoders, read: int, apart: Float[Tensor, " d_model"]
) -> list[Float[Tensor, "pos feature"]]:
    """Activation times its gradient, layer by layer."""
    slope = torch.zeros_like(frozen.final)
    slope[read] = frozen.final_down(read, apart[None])[0]
    written: dict[int, Tensor] = {}
    effects: list[Tensor] = []
    for layer in reversed(range(len(frozen.layers))):
        one = transcoders.layers[layer]
        active = one.encode(frozen.inputs(layer).to(one.encoder.dtype))
        written[layer] = slope
        reaches = range(one.decoder.shape[1])
        by_active = torch.stack([written[layer + up].to(one.decoder) @ one.decoder[:, up].T for up in reaches]).sum(0)
        effects.append((active * by_active).float())
        inputs = (by_active * (active > 0)) @ one.encoder
        if one.skip is not None:
            inputs = inputs + slope.to(one.skip) @ one.skip
        slope = slope + frozen.inputs_down(layer, inputs.to(slope)[:, None])[:, 0]
        slope = frozen.attention_down(layer, slope[:, None])[:, 0]
    return effects[::-1]
