"""The tests, and how they check types."""

from functools import cache
from typing import Any

_READY: dict[Any, Any] = {}


@cache
def _beartype():
    from beartype import BeartypeConf, beartype

    return beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function):
    """beartype, but the checks of an inner function are made once, not whenever the outer one runs.

    jaxtyping hands over an empty function of the same signature, so that a signature is all there is to check. Types
    are told apart as they are written; those of a class inside a function may differ though written alike.
    """
    code, types = function.__code__, repr(function.__annotations__)
    if "<locals>" not in function.__qualname__ or "<locals>" in types:
        return _beartype()(function)
    key = (
        function.__module__, function.__qualname__, types, code.co_varnames, code.co_flags, code.co_argcount,
        code.co_posonlyargcount, code.co_kwonlyargcount, len(function.__defaults__ or ()),
        tuple(function.__kwdefaults__ or ()),
    )  # fmt: skip
    if key not in _READY:
        _READY[key] = _beartype()(function)
    return _READY[key]
