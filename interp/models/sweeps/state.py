"""Whether a model is still the one whose own logits the network's functions were compared with."""

from __future__ import annotations

from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch import nn
from torch.nn.modules.module import _has_any_global_hook
from transformers.pytorch_utils import Conv1D

from interp.models.load import HookedTransformer, HookPoint
from interp.models.run import modules_of
from interp.models.sweeps.blocks import UnknownForm

State = tuple[Any, ...]

_PLAIN = frozenset((bool, int, float, str))
_BARE = frozenset((nn.Linear, nn.Dropout, nn.ModuleList, nn.ModuleDict, Conv1D))
"""What these compute is decided by their weights."""
_ALIKE: WeakKeyDictionary[HookedTransformer, tuple[State, int]] = WeakKeyDictionary()


def state_of(model: HookedTransformer) -> State | None:
    """What makes a model's logits: its modules, their functions, settings and weights, as they stand.

    None where changes of it would not be seen. (Weights that were written through `.data`, which torch does not count,
    are not told apart; the functions read them as they stand.) Raises UnknownForm where somebody hooked a function in:
    what it does, and for which prompts, cannot be known.
    """
    whole: Any = model
    found: list[Any] = [str(vars(whole.original_model.config)), str(vars(model.cfg))]
    foreign, unseen = _has_any_global_hook(), False
    for module in modules_of(model):
        own = vars(module)
        if own["_forward_hooks"] or own["_forward_pre_hooks"]:
            foreign = foreign or not _own(module)
        unseen = unseen or "forward" in own
        if isinstance(module, HookPoint):
            continue
        found += ref(module), type(module).forward
        if type(module) not in _BARE:
            plain = [(name, value) for name, value in own.items() if type(value) in _PLAIN]
            found += [value for name, value in plain if name[0] != "_" and name != "training"]
        for weight in (*module._parameters.values(), *module._buffers.values()):
            if weight is not None:
                unseen = unseen or weight.is_inference()  # these do not count their changes
                found += id(weight), 0 if unseen else weight._version, weight.data_ptr()
    if foreign:
        raise UnknownForm("functions that are not its own are hooked into it")
    return None if unseen else tuple(found)


def _own(module: nn.Module) -> bool:
    """Whether all that is hooked in is the libraries' own: they remember what passes by."""
    hooks = chain(module._forward_hooks.values(), module._forward_pre_hooks.values())
    return not isinstance(module, HookPoint) and all(
        str(getattr(hook, "__module__", None)).startswith(("transformer_lens.", "transformers.")) for hook in hooks
    )


def are_alike(model: HookedTransformer, state: State | None, length: int) -> bool:
    """Whether the functions gave the logits of this state, on prompts of so many tokens or more."""
    before = _ALIKE.get(model)
    return before is not None and before[0] == state and length <= before[1]


def found_alike(model: HookedTransformer, state: State | None, length: int) -> None:
    """Keep in mind that they did."""
    if state is not None:
        _ALIKE[model] = state, length


def forget(model: HookedTransformer) -> None:
    """Not to be trusted until they did again."""
    _ALIKE.pop(model, None)
