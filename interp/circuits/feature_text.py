"""What features read and write, in words: the tokens that they make likelier, and the prompts that make them active.

Tokens are those of W_dec W_U: the feature's own writing through the final norm's weight and the unembedding, less its
mean over the vocabulary (the logit lens of nostalgebraist, 2020, on a decoder row). That is its direct path alone, at
a norm scale of one; what it does through the layers above is not in it, and for early layers that may be all it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from interp.circuits.activity import Activity
from interp.circuits.transcoders import Transcoders
from interp.errors import ConfigError
from interp.models.load import HookedTransformer
from interp.models.readout import LinearReadout
from interp.models.run import undisturbed
from interp.prompts import Prompts

Tokens = tuple[tuple[str, float], ...]

_CELLS = 1 << 24
"""Logits that are held at once."""


@dataclass(frozen=True)
class Context:
    """A prompt on which a feature is active."""

    row: int
    """Of the prompts."""
    tokens: tuple[str, ...]
    at: int
    """The token at which it is strongest."""
    activation: float
    prompt: str


def written_tokens(
    model: HookedTransformer,
    transcoders: Transcoders,
    features: Int[np.ndarray, "feature two"],
    *,
    count: int = 10,
) -> list[tuple[Tokens, Tokens]]:
    """For each feature (layer, number) the tokens that it makes likeliest and unlikeliest, the strongest first.

    Each with what one unit of activation adds to its logit at a norm scale of one, less the mean over the vocabulary.
    What a cross-layer feature writes to several layers is summed.
    """
    if count < 1:
        raise ConfigError(f"at least one token is shown, not {count}")
    found: list[tuple[Tokens, Tokens]] = []
    tokenizer: Any = model.tokenizer
    with undisturbed(model):
        readout = LinearReadout.of(model)
        vocabulary = readout.unembedding.shape[1]
        rows = [transcoders.layers[layer].decoder[number].sum(0) for layer, number in features.tolist()]
        vectors = torch.stack(rows) if rows else torch.zeros(0, readout.unembedding.shape[0])
        for some in vectors.split(max(1, _CELLS // vocabulary)):
            logits = readout.logits(some)
            logits = logits - logits.mean(-1, keepdim=True)
            ends = [logits.topk(min(count, vocabulary), dim=-1, largest=largest) for largest in (True, False)]
            for row in range(len(some)):
                top, bottom = (
                    tuple(
                        (token_text(tokenizer, token), float(value))
                        for token, value in zip(end.indices[row].tolist(), end.values[row].tolist(), strict=True)
                    )
                    for end in ends
                )
                found.append((top, bottom))
    return found


def top_contexts(
    activity: Activity,
    prompts: Prompts,
    tokenizer: Any,
    index: int,
    *,
    count: int = 5,
    rows: Sequence[int] | Int[np.ndarray, " row"] | None = None,
) -> tuple[Context, ...]:
    """The prompts (of `rows`, by default all) on which a feature is strongest, the strongest first.

    `index` is its column in `activity`. Equal prompts come once.
    """
    chosen = np.arange(len(prompts)) if rows is None else np.asarray(rows)
    order = chosen[np.argsort(-activity.largest[chosen, index], kind="stable")]
    found: dict[str, Context] = {}
    for row in order.tolist():
        value, text = float(activity.largest[row, index]), prompts.texts[row]
        if value <= 0 or len(found) == count:
            break
        ids = prompts.tokens[row, : int(prompts.lengths[row])].tolist()
        shown = tuple(token_text(tokenizer, token) for token in ids)
        found.setdefault(text, Context(row, shown, int(activity.column[row, index]), value, text))
    return tuple(found.values())


def token_text(tokenizer: Any, token: int) -> str:
    """A token as text; its number where there is no tokenizer."""
    return str(token) if tokenizer is None else str(tokenizer.decode([token]))
