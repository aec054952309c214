"""A copy of the model under training, to be looked at in its place.

Training must not change because it is watched: no hook, mode, gradient or random number of the trained model may be
touched. So nothing is done to it but reading its weights. They are copied into a second model, made from the
configuration and wrapped once; an adapter is merged in a copy first.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.errors import ModelError
from interp.models import adapters
from interp.models.load import HookedTransformer, load_model, named_weights, quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOLERANCE = 1e-4
"""Largest difference of logits between the shadow and the weights it shadows, relative to their spread."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The Hugging Face or PEFT model inside of what distributes or compiles it."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


class Shadow:
    """A HookedTransformer with the weights that the trained model had at the last `update`."""

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        self._trained = unwrapped(model)
        plain = self._trained.get_base_model() if adapters.is_adapted(self._trained) else self._trained  # type: ignore[operator]
        if not isinstance(plain, PreTrainedModel) or plain.get_output_embeddings() is None:
            raise ModelError(f"a {type(plain).__name__} is no Hugging Face causal language model, so it is no judge")
        if not adapters.is_adapted(self._trained):
            adapters.refuse_loose_layers(plain, f"the {type(plain).__name__}")
        self._tokenizer, self._device = tokenizer, plain.device
        with undisturbed(), quiet_transformers():
            read = _read(self._trained)
            config: Any = copy.deepcopy(read.config)
            config._attn_implementation = "eager"
            self._plain: Any = type(read)(config).to(device=self._device, dtype=torch.float32).eval()
            self.model: HookedTransformer = load_model(self._plain, tokenizer, device=self._device)
            _copy(dict(read.named_parameters()), dict(self._plain.named_parameters()))
            self._targets = self._sharing()
            if self._targets:
                del self._plain

    def update(self) -> None:
        """Take the trained model's weights of this moment."""
        with undisturbed():
            weights = dict(_read(self._trained).named_parameters())
            if self._targets:
                _copy(weights, self._targets)
                return
            _copy(weights, dict(self._plain.named_parameters()))
            with quiet_transformers():
                self.model = load_model(self._plain, self._tokenizer, device=self._device)

    def _sharing(self) -> dict[str, Tensor]:
        """The weights that the wrapped model computes with; none where wrapping has cut some of them apart."""
        own, plain = named_weights(self.model), dict(self._plain.named_parameters())
        if set(own) != set(plain):
            return {}
        _copy(plain, own)
        vocabulary = int(self._plain.config.get_text_config().vocab_size)
        tokens = torch.arange(8, device=self._device)[None] * 7 % vocabulary
        with torch.no_grad():
            wanted, found = self._plain(tokens, use_cache=False).logits, self.model(tokens)
        spread = float((wanted - wanted.mean(-1, keepdim=True)).abs().max())
        return own if float((wanted - found).abs().max()) <= _TOLERANCE * max(1.0, spread) else {}


def _copy(weights: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, target in targets.items():
            if name not in weights or weights[name].shape != target.shape:
                found = f"has shape {tuple(weights[name].shape)}" if name in weights else "is missing"
                raise ModelError(
                    f"the weight {name} of the trained model {found}, and its configuration calls for "
                    f"{tuple(target.shape)}; a model in pieces on several devices cannot be watched"
                )
            target.copy_(weights[name])


def _read(trained: nn.Module) -> Any:
    """The model whose weights are to be read: itself, or with its adapter merged into a copy in float32."""
    if not adapters.is_adapted(trained):
        return trained
    merging: Any = copy.deepcopy(trained)
    for parameter in merging.parameters():
        parameter.data = parameter.data.float()
    return adapters.merged(merging, True)


@contextmanager
def undisturbed() -> Iterator[None]:
    """All random states are afterwards as they were, and mixed precision is off within."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
