"""How strongly each feature is active on each prompt, and where: what all statistics over a benchmark start from.

A prompt counts once, by the largest activation over its tokens: counting tokens would count long prompts often. The
first token (of the beginning of a sequence) is left out, since transcoders make there of a constant what they will.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits.training import activations_of
from interp.circuits.transcoders import Transcoders
from interp.errors import ConfigError, ModelError, PromptError
from interp.models.load import HookedTransformer, info
from interp.models.run import MEMORY, check_context, undisturbed
from interp.models.sweeps.blocks import UnknownForm
from interp.models.sweeps.runs import Runs
from interp.prompts import Prompts


@dataclass(frozen=True, eq=False)
class Activity:
    """Features that are active anywhere in the prompts; the others are 0 on all of them and have no column here."""

    features: Int[np.ndarray, "feature two"]
    """Layer and number of each, in this order."""
    sizes: tuple[int, ...]
    """All features of each layer."""
    largest: Float[np.ndarray, "prompt feature"]
    """Largest activation over a prompt's tokens; 0 where it is never active."""
    column: Int[np.ndarray, "prompt feature"]
    """The token where that is; -1 where it is never active."""
    answer: Float[np.ndarray, "prompt feature"]
    """Activation at the column that the prompt's answer is read at."""
    skipped: int
    """First tokens of each prompt that `largest` leaves out."""

    @property
    def names(self) -> tuple[str, ...]:
        """`L0_F123` for each feature."""
        return tuple(map(feature_name, *self.features.T.tolist())) if len(self.features) else ()

    def index(self, features: Sequence[tuple[int, int]] | Int[np.ndarray, "some two"]) -> Int[np.ndarray, " some"]:
        """Columns of features by layer and number. Raises ConfigError for one that is never active."""
        place = {tuple(one): at for at, one in enumerate(self.features.tolist())}
        wanted = [(int(layer), int(number)) for layer, number in features]
        missing = [one for one in wanted if one not in place]
        if missing:
            raise ConfigError(f"{feature_name(*missing[0])} is active on none of the prompts")
        return np.array([place[one] for one in wanted], dtype=np.int64)


def feature_name(layer: int, number: int) -> str:
    """`L0_F123`."""
    return f"L{layer}_F{number}"


def feature_activity(
    model: HookedTransformer,
    transcoders: Transcoders,
    prompts: Prompts,
    *,
    skip: int = 1,
    memory: int = MEMORY,
) -> Activity:
    """Run the prompts once and keep what every feature does on them; the answer is at the first column that is read.

    Batches are as large as `memory` bytes allow. `skip` tokens at the beginning of each prompt are left out: 1 for a
    tokenizer that begins sequences with a token of its own, 0 for others. Raises ModelError for an unknown
    architecture.
    """
    if skip < 0 or int(prompts.lengths.min()) <= skip:
        raise PromptError(f"a prompt has no token left where the first {skip} are left out")
    if bool((prompts.reads[:, 0] < 0).any()):
        raise PromptError("every prompt needs an answer position: a column in its first read")
    transcoders.check_fit(model)
    check_context(model, prompts)
    runs = entered(model, prompts, memory)
    place = runs.entry.device
    mask = prompts.mask.to(place)
    mask[:, :skip] = False
    reads = prompts.reads[:, 0].to(place)
    sizes = tuple(one.size for one in transcoders.layers)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
    width = prompts.tokens.shape[1]
    each = width * (3 * max(sizes) + (12 + 2 * len(sizes)) * int(model.cfg.d_model)) * runs.entry.element_size()
    order = prompts.lengths.argsort(descending=True, stable=True)
    with undisturbed(model):
        for some in order.split(max(1, memory // each)):
            rows = some.to(place)
            span = int(prompts.lengths[some].max())
            inputs, _, _ = activations_of(runs.net, runs.entry[rows, :span], transcoders.reads)
            here = mask[rows, :span, None]
            for layer, (one, x) in enumerate(zip(transcoders.layers, inputs, strict=True)):
                found = one.encode(x.to(one.encoder.dtype)).float()
                answer = found[torch.arange(len(rows), device=place), reads[rows]]
                best = found.masked_fill_(~here, 0.0).max(1)
                hit = ((best.values > 0) | (answer > 0)).nonzero()
                at = (hit[:, 0], hit[:, 1])
                parts.append(
                    (rows[at[0]].cpu(), (at[1] + int(starts[layer])).cpu(), best.values[at].cpu(),
                     torch.where(best.values[at] > 0, best.indices[at], -1).cpu(), answer[at].cpu())
                )  # fmt: skip
    row, number, largest, column, answer = (torch.cat(one).numpy() for one in zip(*parts, strict=True))
    active, slot = np.unique(number, return_inverse=True)
    shape = (len(prompts), len(active))
    tables = np.zeros(shape, np.float32), np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    for table, values in zip(tables, (largest, column, answer), strict=True):
        table[row, slot] = values
    layer = np.searchsorted(starts, active, side="right") - 1
    return Activity(np.stack([layer, active - starts[layer]], 1), sizes, *tables, skip)


def entered(model: HookedTransformer, prompts: Prompts, memory: int) -> Runs:
    """Prompts on their way into the network's functions, which were checked against the model."""
    try:
        return Runs.of(model, prompts, memory=memory)
    except UnknownForm as error:
        raise ModelError(f"features of {info(model).name} cannot be read: {error}") from None
