"""An update switched on and off weight by weight, with one model in memory.

An update (an adapter, a fine-tuning) is a change of some weights. Kept apart from the model, each can be added and
taken away: which of them does it?
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from interp.errors import ModelError
from interp.models.load import HookedTransformer, info, named_weights

Changes = Mapping[str, Tensor]
"""What an update adds to each weight, by the weight's name."""


def changes_between(before: HookedTransformer, after: HookedTransformer) -> dict[str, Tensor]:
    """What the update adds to each weight that it changes. Raises ModelError where the two are not of one shape."""
    for model in (before, after):
        if info(model).weights != "raw":
            raise ModelError(f"{info(model).name} has processed weights; load it with raw ones to compare weights")
    one, other = named_weights(before), named_weights(after)
    lonely = sorted(one.keys() ^ other.keys())
    unlike = [name for name in one if name in other and one[name].shape != other[name].shape]
    if lonely or unlike:
        raise ModelError(f"the models differ in {(lonely or unlike)[0]}; compare two forms of one model")
    twice = _wholes(one)
    # In float32 at least, so that what is added gives the other weight again after rounding.
    found = {name: _wide(other[name].to(one[name].device)) - _wide(one[name]) for name in one if name not in twice}
    return {name: change.clone() for name, change in found.items() if bool((change != 0).any())}


@contextmanager
def switched_on(model: HookedTransformer, changes: Changes, names: Sequence[str]) -> Iterator[None]:
    """The model with these changes; afterwards its weights are what they were, bit for bit."""
    weights = named_weights(model)
    unknown = [name for name in names if name not in weights or name not in changes]
    if unknown:
        raise ModelError(f"there is no change of {unknown[0]}")
    kept = {name: weights[name].clone() for name in names}
    try:
        with torch.no_grad():
            for name in names:
                weights[name].copy_(_wide(kept[name]) + changes[name].to(kept[name].device))
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                weights[name].copy_(value)


def _wide(weight: Tensor) -> Tensor:
    return weight if weight.dtype == torch.float64 else weight.float()


def _wholes(weights: Mapping[str, Tensor]) -> set[str]:
    """Weights whose memory is named again part by part: GPT-2's joint matrix beside its q, k and v."""
    shared: dict[int, list[str]] = {}
    for name, weight in weights.items():
        shared.setdefault(weight.untyped_storage().data_ptr(), []).append(name)
    found = set()
    for names in shared.values():
        largest = max(names, key=lambda name: weights[name].numel())
        if len(names) > 1 and sum(weights[name].numel() for name in names) == 2 * weights[largest].numel():
            found.add(largest)
    return found


def layer_of(name: str) -> int | None:
    """The layer that a weight belongs to by its name; None for embeddings, the final norm and the like."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)
