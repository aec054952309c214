"""Whether a model is still the one whose own logits the network's functions were compared with."""

from __future__ import annotations

from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from interp.models.load import HookedTransformer, HookPoint
from interp.models.run import modules_of

State = tuple[Any, ...]

_ALIKE: WeakKeyDictionary[HookedTransformer, tuple[State, int]] = WeakKeyDictionary()


def state_of(model: HookedTransformer) -> State | None:
    """What makes a model's logits: its modules, their functions, weights and settings, as they stand.

    None where that is not all: functions that somebody hooked in may do other things tomorrow. Weights that were
    written through `.data`, which torch does not count, are not told apart; the functions read them as they stand.
    """
    whole: Any = model
    found: list[Any] = [str(vars(whole.original_model.config)), str(vars(model.cfg))]
    for module in modules_of(model):
        if module._forward_hooks or module._forward_pre_hooks:
            if isinstance(module, HookPoint) or not _own(module):
                return None
        elif isinstance(module, HookPoint):
            continue
        if "forward" in module.__dict__:
            return None
        found += id(module), type(module).forward
        for weight in (*module._parameters.values(), *module._buffers.values()):
            if weight is not None:
                if weight.is_inference():  # changes of these are not counted
                    return None
                found += id(weight), weight._version, weight.data_ptr()
    return None if _has_any_global_hook() else tuple(found)


def _own(module: nn.Module) -> bool:
    """Whether all that is hooked in is the bridge's own."""
    hooks = chain(module._forward_hooks.values(), module._forward_pre_hooks.values())
    return all(hook.__module__.startswith("transformer_lens.") for hook in hooks)


def are_alike(model: HookedTransformer, state: State | None, length: int) -> bool:
    """Whether the functions gave the logits of this state, on prompts of so many tokens or more."""
    before = _ALIKE.get(model)
    return before is not None and before[0] == state and length <= before[1]


def found_alike(model: HookedTransformer, state: State | None, length: int) -> None:
    """Keep in mind that they did."""
    if state is not None:
        _ALIKE[model] = state, length
