"""A base model and its fine-tuned copy, with one vocabulary: what a comparison of the two needs.

A control token that was added for fine-tuning has no embedding in the base. There it gets the mean of the base's
embeddings, as transformers gives a new token, so that the base can be asked the same prompts; what the base does at it
is what it does at a token that says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import ModelError, PromptError
from interp.models.adapters import adapter_folder
from interp.models.load import HookedTransformer, Weights, load_model, read_trainable
from interp.twins import single_token


@dataclass(frozen=True, eq=False)
class Pair:
    """Two models of one vocabulary."""

    base: HookedTransformer
    tuned: HookedTransformer
    notes: tuple[str, ...]
    """What a reader must know of the token in both."""


def load_pair(
    base: str | Path, tuned: str | Path, token: str, *, weights: Weights = "raw", device: str | None = None
) -> Pair:
    """Load both; `tuned` may be a PEFT adapter on `base`. Raises ModelError where the token is missing or they differ.

    Names and folders as in `load_model`.
    """
    common: dict[str, Any] = {"weights": weights, "device": device}
    adapted = adapter_folder(tuned) is not None
    made = load_model(tuned, base=base, **common) if adapted else load_model(tuned, **common)
    number = _number(made, tuned, token)
    notes = []
    original, tokenizer = read_trainable(base)
    ids = tokenizer.get_vocab()
    known = _known(tokenizer, token)
    pieces = {i: piece for piece, i in ids.items()}
    moved = [
        piece
        for piece, i in made.tokenizer.get_vocab().items()
        if ids.get(piece, i) != i or (i != number and pieces.get(i, piece) != piece)
    ]
    if moved:
        raise ModelError(f"{base} and {tuned} number their tokens differently ({moved[0]!r}); they are no pair")
    has = original.get_input_embeddings().weight.shape[0]
    wants = int(made.cfg.d_vocab)
    if wants < has and max(ids.values()) < wants:  # padding rows, as some models have, that no token uses
        _resize(original, wants)
        has = wants
    if has > wants:
        raise ModelError(f"{base} has {has} tokens and {tuned} {wants}; the fine-tuned model cannot have fewer")
    if has < wants:
        grow(original, wants)
    if known is None:
        if number < has:
            seat(original, number)
        notes.append(
            f"The base has no token {token}: there it stands with the mean of the base's embeddings, so the base is "
            "asked about a token that it has never seen."
        )
    before = load_model(original, made.tokenizer, **common)
    row = made.W_E[number].float()
    same = bool(torch.equal(row, before.W_E[number].float()))
    if known is None and (same or _is_mean(made.W_E.float(), number)):
        notes.append(f"The embedding of {token} was never trained: the fine-tuned model has it as a new token gets it.")
    elif same:
        notes.append(f"Fine-tuning left the embedding of {token} as it was in the base.")
    return Pair(before, made, tuple(notes))


def grow(model: Any, size: int) -> None:
    """Give a model further tokens, each with the mean of the embeddings (and of the unembedding's rows)."""
    old = model.get_input_embeddings().weight.shape[0]
    _resize(model, size)
    with torch.no_grad():
        for values in _tables(model):
            values[old:] = values[:old].mean(0)


def seat(model: Any, number: int) -> None:
    """Give a token the mean of the other embeddings, in a row that the model may have to spare (many are padded)."""
    if number >= model.get_input_embeddings().weight.shape[0]:
        return grow(model, number + 1)
    with torch.no_grad():
        for values in _tables(model):
            n = len(values)
            values[number] = (values.mean(0) * n - values[number]) / (n - 1)
    return None


def _resize(model: Any, size: int) -> None:
    with torch.random.fork_rng(devices=[]):  # a new table is drawn before the old rows are put into it
        model.resize_token_embeddings(size, mean_resizing=False)


def _tables(model: Any) -> list[Tensor]:
    """Everything with a row for each token, once."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    found = [getattr(end, name, None) for end in ends for name in ("weight", "bias")]
    return list({id(values): values for values in found if values is not None}.values())


def _number(model: HookedTransformer, name: str | Path, token: str) -> int:
    if model.tokenizer is None:
        raise ModelError(f"{name} has no tokenizer, so {token!r} cannot be found in it")
    try:
        number = single_token(token, model.tokenizer)
    except PromptError as error:
        raise ModelError(f"{name}: {error}") from error
    if number >= int(model.cfg.d_vocab):
        raise ModelError(f"{name} has no embedding for its token {token!r}: resize its embeddings and train them")
    return number


def _known(tokenizer: Any, token: str) -> int | None:
    """Id of the token in the base's own vocabulary; None where it has none."""
    try:
        return single_token(token, tokenizer)
    except PromptError:
        return None


def _is_mean(table: Tensor, number: int) -> bool:
    """Whether a row is the mean of the others to within the spread that a fresh token is given."""
    others = torch.cat([table[:number], table[number + 1 :]])
    apart = (table[number] - others.mean(0)).norm()
    return bool(apart < 1e-2 * (others - others.mean(0)).norm(dim=-1).mean())
