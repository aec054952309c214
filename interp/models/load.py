"""From a name, a folder or a model in memory to a HookedTransformer whose logits are proven to be the original's.

TransformerLens 4 removed the class `HookedTransformer`; `TransformerBridge`, which wraps a Hugging Face model, is its
heir. This file owns that fact: everything else says `HookedTransformer`.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch
from huggingface_hub.utils import logging as hub_logging
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge as HookedTransformer
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from interp.errors import ConfigError, ModelError
from interp.files import shipped_model, shipped_models
from interp.models import adapters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "HookPoint", "HookedTransformer", "ModelInfo", "Weights", "info", "load_model", "require_weights", "untrained",
]  # fmt: skip

Weights = Literal["raw", "processed"]
"""`raw`: as trained, equal to Hugging Face number by number. `processed`: norms folded into the next weights, weights
that write to the residual stream and the unembedding centred; the same log-probabilities in a tidier basis."""

_Truth = tuple[Int[Tensor, "prompt pos"], Float[Tensor, "prompt pos vocab"]]
"""A probe batch and the logits that the original computes on it."""

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference from the original's log-probabilities, relative to the spread of its logits."""


@dataclass(frozen=True)
class ModelInfo:
    """What a model is, for provenance."""

    name: str
    architecture: str
    weights: Weights
    n_layers: int
    n_heads: int
    d_model: int
    n_parameters: int
    dtype: str
    device: str
    digest: str
    """Hash over the configuration and all parameters as loaded."""
    tokenizer: str
    """Hash over the tokenizer's vocabulary; empty where there is none."""
    check: float
    """Largest difference from the original's logits (processed: log-probabilities) on the probe batch."""
    adapter: str = ""
    """The PEFT adapter and what became of it, as "LoRA r=4, merged in float32"; empty where there is none."""


_KNOWN: WeakKeyDictionary[HookedTransformer, ModelInfo] = WeakKeyDictionary()


def load_model(
    name_or_path: str | Path | nn.Module,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    weights: Weights = "raw",
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    trust_remote_code: bool = False,
    base: str | Path | None = None,
    adapter: bool = True,
) -> HookedTransformer:
    """Load a causal language model as a HookedTransformer and check it against the original.

    `name_or_path` is a model shipped with interp (`"arithmetic-add3"`), a local folder (config.json,
    model.safetensors, tokenizer), a Hugging Face name, or a Hugging Face model in memory, which is copied and left as
    it is. `device=None` takes a GPU where there is one. Weights are read from safetensors only.

    A PEFT adapter, as a folder (adapter_config.json, adapter_model.safetensors) or a PeftModel in memory, is loaded
    with its base model, merged into the weights in float32 and checked against PEFT's own forward. `base` is the base
    model's name or folder, where it is not the one that the adapter's folder names (a name, or a folder, also
    relative to it). `adapter=False` gives the same model with the adapter switched off. `info(model).adapter` says
    whether TransformerLens would have dropped the adapter unmerged.

    Raises ModelError where the model is not found, not a causal language model, damaged (missing tensors, nan), or
    where the wrapped model's logits differ from the original's on a probe batch; also where an adapter is damaged,
    does not fit its base model, or cannot be merged.
    """
    if weights not in ("raw", "processed"):
        raise ConfigError(f"weights must be 'raw' or 'processed', not {weights!r}")
    place = _place(device)
    with torch.random.fork_rng(devices=[]):  # building modules draws weights that are then replaced
        if isinstance(name_or_path, nn.Module):
            _check_options(adapters.is_adapted(name_or_path), True, base, adapter)
            original = _copied(name_or_path, dtype)
            name = getattr(_plain(original).config, "name_or_path", "") or type(_plain(original)).__name__
        else:
            name = str(name_or_path)
            folder = adapters.adapter_folder(_shipped_adapter(name_or_path) or name_or_path)
            _check_options(folder is not None, False, base, adapter)
            if folder is not None:
                original, tokenizer = _read_adapted(folder, base, tokenizer, dtype, revision, trust_remote_code)
            else:
                source, local = resolve(name_or_path)
                original = _read(source, local, dtype, revision, trust_remote_code)
                tokenizer = tokenizer or _read_tokenizer(source, local, revision, trust_remote_code)
        original.to(place).eval()
        _refuse_damaged(original, name)
        if not adapters.is_adapted(original):
            return _wrap(original, tokenizer, name, weights)
        merged, truth, said = _merged(original, adapter, dtype, name)
        return _wrap(merged, tokenizer, name, weights, truth, said)


def info(model: HookedTransformer) -> ModelInfo:
    """What is known of a model; one that `load_model` did not make is described without the check."""
    if model not in _KNOWN:
        original = model.original_model
        size = sum(p.numel() for p in original.parameters())
        _KNOWN[model] = _describe(model, str(model.cfg.model_name), _digest(original), size, float("nan"))
    return _KNOWN[model]


def require_weights(model: HookedTransformer, needed: Weights, what: str) -> None:
    """Raise ModelError unless the model's weights are in the state that `what` needs."""
    found = info(model).weights
    if found != needed:
        raise ModelError(
            f"{what} needs {needed} weights, and this model has {found} ones; load it with load_model(..., "
            f"weights={needed!r})"
        )


def untrained(model: HookedTransformer, seeds: Sequence[int]) -> Iterator[HookedTransformer]:
    """The same architecture with freshly initialised weights, one model a seed: the baseline for "learned".

    Models are made one at a time, in the state (raw, processed), dtype and on the device of `model`.
    """
    known = info(model)
    for seed in seeds:
        name = f"{known.name} (untrained, seed {seed})"
        with seeded(seed):
            fresh = AutoModelForCausalLM.from_config(
                _eager(copy.deepcopy(model.original_model.config)), dtype=model.cfg.dtype
            )
            wrapped = _wrap(fresh.to(known.device).eval(), model.tokenizer, name, known.weights)
        yield wrapped


def named_weights(model: HookedTransformer) -> dict[str, Tensor]:
    """Every weight once, by its Hugging Face name."""
    return {
        name.replace("_original_component.", ""): parameter.detach()
        for name, parameter in model.original_model.named_parameters()
    }


def read_trainable(name_or_path: str | Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """The Hugging Face model itself, in float32, and its tokenizer: for fine-tuning. Raises as `load_model` does."""
    source, local = resolve(name_or_path)
    with torch.random.fork_rng(devices=[]):
        model = _read(source, local, torch.float32, None, False)
    _refuse_damaged(model, str(name_or_path))
    tokenizer = _read_tokenizer(source, local, None, False)
    if tokenizer is None:
        raise ModelError(f"{name_or_path} has no tokenizer, so texts cannot be given to it")
    return model, tokenizer


def _place(device: str | torch.device | None) -> torch.device:
    try:
        place = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"the device {str(device)!r} cannot be used here: {_first_line(error)}") from error
    return place


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' and the hub client's own warnings and progress bars off the screen for a while."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    hub = hub_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        hub_logging.set_verbosity(hub)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator for the processor for a while; no other generator is touched."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def resolve(name_or_path: str | Path) -> tuple[str, bool]:
    """Where to read from, and whether that is a folder here."""
    text = str(name_or_path)
    if not text:
        raise ModelError("there is no model folder ''; give a folder or a Hugging Face name")
    path = Path(text).expanduser()
    shipped = shipped_model(text)
    if not path.is_dir() and shipped is not None:
        path = shipped
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{path} is not a model folder: it has no config.json")
        if not list(path.glob("*.safetensors")):
            raise ModelError(f"{path} has no .safetensors weights; convert them with save_pretrained")
        return str(path), True
    looks_local = isinstance(name_or_path, Path) or path.is_absolute() or text.startswith((".", "~"))
    if looks_local or text.count("/") > 1:
        raise ModelError(f"there is no model folder {text!r}; give a folder or a Hugging Face name")
    names = [folder.name for folder in shipped_models()]
    if difflib.get_close_matches(text, names, cutoff=0.8):
        raise ModelError(f"there is no model {text!r}; shipped with interp are: {', '.join(names)}")
    return text, False


def _shipped_adapter(name_or_path: str | Path) -> Path | None:
    """The folder of an adapter shipped under this name, where no folder here has the name."""
    shipped = None if Path(name_or_path).expanduser().is_dir() else shipped_model(str(name_or_path))
    return shipped if shipped is not None and (shipped / adapters.CONFIG).is_file() else None


def _check_options(adapted: bool, memory: bool, base: str | Path | None, adapter: bool) -> None:
    if not adapted and (base is not None or not adapter):
        raise ConfigError("base= and adapter=False are for a model with a PEFT adapter, and this one has none")
    if adapted and memory and base is not None:
        raise ConfigError("base= is for the folder of an adapter; a PeftModel in memory brings its base model with it")


def _plain(model: Any) -> Any:
    """The Hugging Face model itself, inside or outside PEFT's wrapper."""
    return model.get_base_model() if adapters.is_adapted(model) else model


def _copied(given: nn.Module, dtype: torch.dtype) -> Any:
    """A copy in the wanted precision, eager attention. With an adapter, in the precision in which it is merged."""
    plain = _plain(given)
    if not isinstance(plain, PreTrainedModel) or plain.get_output_embeddings() is None:
        raise ModelError(f"a {type(plain).__name__} is no Hugging Face causal language model")
    if any(not parameter.is_floating_point() for parameter in given.parameters()):
        raise ModelError(f"the {type(plain).__name__} has quantised weights; load it in float32 or bfloat16")
    adapted = adapters.is_adapted(given)
    if not adapted:
        adapters.refuse_loose_layers(plain, f"the {type(plain).__name__}")
    original: Any = copy.deepcopy(given)
    _cast(original, _merging(dtype) if adapted else dtype)
    _plain(original).set_attn_implementation("eager")  # the other kernels do not expose attention patterns
    return original


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Change the precision of the weights. Buffers keep theirs, as in a checkpoint read: rotary angles need it."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _merging(dtype: torch.dtype) -> torch.dtype:
    """The precision in which an adapter is merged, whatever the model's is to be."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _eager(config: Any) -> Any:
    config._attn_implementation = "eager"  # the other kernels do not expose attention patterns
    return config


def _read(source: str, local: bool, dtype: torch.dtype, revision: str | None, remote: bool) -> Any:
    common: dict[str, Any] = {
        "revision": revision,
        "trust_remote_code": remote,
        "local_files_only": local,
    }
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(source, **common)
        heads = [a for a in config.architectures or [] if a.endswith("ForSequenceClassification")]
        if heads:
            raise ModelError(
                f"{source} is a {heads[0]}: its score head would be dropped and replaced by a language-model head; "
                "load a causal language model"
            )
        with quiet_transformers():
            found: Any = AutoModelForCausalLM.from_pretrained(
                source,
                config=_eager(config),
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                **common,
            )
    except ModelError:
        raise
    except Exception as error:  # the loaders raise OSError, ValueError, RuntimeError, SafetensorError, KeyError
        where = "the folder is damaged or not a causal language model" if local else "check the name and the network"
        if not local and "/" not in source:
            where += f" (shipped with interp are: {', '.join(folder.name for folder in shipped_models())})"
        raise ModelError(f"cannot load the model {source}: {_first_line(error)}; {where}") from error
    loaded, report = found
    adapters.refuse_loose_layers(loaded, source)  # transformers attaches an adapter that it finds, unasked
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{source} lacks {len(missing)} tensors that its config.json calls for ({missing[0]}, ...): the checkpoint "
            "is truncated or belongs to another model"
        )
    beyond = sorted(key for key in report["unexpected_keys"] if re.search(r"\.\d+\.", key))
    if beyond:
        raise ModelError(
            f"{source} has {len(beyond)} tensors that its config.json does not call for ({beyond[0]}, ...): the config "
            "belongs to another model"
        )
    return loaded


def _read_adapted(
    folder: Path, base: str | Path | None, tokenizer: Any, dtype: torch.dtype, revision: str | None, remote: bool
) -> tuple[Any, Any]:
    """A PeftModel from an adapter's folder, in the precision in which it is merged, and its tokenizer."""
    config = adapters.read_config(folder)
    revision = revision or config.get("revision")
    chosen = adapters.base_of(folder, config) if base is None else base
    tokenizer = tokenizer or _read_tokenizer(str(folder), True, None, remote)
    try:
        source, local = resolve(chosen)
        plain = _read(source, local, _merging(dtype), revision, remote)
        tokenizer = tokenizer or _read_tokenizer(source, local, revision, remote)
    except ModelError as error:
        hint = "" if base is not None else "; give the right one with base="
        raise ModelError(f"the base model of the adapter {folder}: {error}{hint}") from error
    try:
        with quiet_transformers():
            return adapters.attach(plain, folder, config), tokenizer
    except ModelError:
        raise
    except Exception as error:  # PEFT raises KeyError, ValueError, RuntimeError, TypeError; safetensors its own
        raise ModelError(
            f"cannot load the adapter {folder}: {_first_line(error)}; it is damaged or made for another base model "
            f"than {source}, to be given with base="
        ) from error


def _read_tokenizer(source: str, local: bool, revision: str | None, remote: bool) -> Any:
    files = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    if local and not any((Path(source) / f).exists() for f in files):
        return None
    try:
        return AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=remote, local_files_only=local
        )
    except Exception as error:
        raise ModelError(f"cannot load the tokenizer of {source}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"[:300]


def _refuse_damaged(original: nn.Module, name: str) -> None:
    for key, parameter in original.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ModelError(f"{name} is damaged: {key} holds nan or infinity; load an intact checkpoint")


def _merged(adapted: Any, on: bool, dtype: torch.dtype, name: str) -> tuple[Any, _Truth, str]:
    """The model with its adapter merged (or without it), what it is to compute, and what became of the adapter.

    Merging is checked against PEFT's own forward before the model is cast to the wanted precision: there the
    tolerance would have to allow for all its rounding. `adapted` is used up.
    """
    precision = _merging(dtype)
    probe = _probe(_plain(adapted), adapters.trained_tokens(adapted))
    kind = adapters.describe(adapted, name)
    if on:
        adapters.refuse_switched_off(adapted, name)
    with adapters.switched(adapted, False):
        without = expected = _logits(adapted, probe)
    said = f"{kind}, switched off"
    if on:
        with adapters.switched(adapted, True):
            expected = _logits(adapted, probe)
        said = f"{kind}, merged in {str(precision).removeprefix('torch.')}"
        said += _unmerged(adapted, probe, expected, without)
    try:
        merged = adapters.merged(adapted, on)
    except Exception as error:  # PEFT raises ValueError, NotImplementedError, AttributeError
        raise ModelError(f"cannot merge the adapter of {name} ({kind}): {_first_line(error)}") from error
    difference, allowed = _difference(expected, _logits(merged, probe), "raw", precision)
    if not difference <= allowed:
        raise ModelError(
            f"{name} with its adapter ({kind}) merged does not compute what PEFT does: logits differ by "
            f"{difference:.2g} (allowed {allowed:.2g}); this adapter has no exact merged form"
        )
    if dtype != precision:
        _cast(merged, dtype)
        expected = _logits(merged, probe)
    return merged, (probe, expected), said


def _unmerged(
    adapted: Any,
    probe: Int[Tensor, "prompt pos"],
    expected: Float[Tensor, "prompt pos vocab"],
    without: Float[Tensor, "prompt pos vocab"],
) -> str:
    """What TransformerLens would make of the adapter before it is merged; empty where it would be right."""
    try:
        live = copy.deepcopy(_plain(adapted))  # wrapping changes a model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _logits(_bridge(live, "unmerged").eval(), probe)
    except Exception as error:
        return f"; TransformerLens cannot wrap it unmerged ({_first_line(error)})"
    difference, allowed = _difference(expected, found, "raw", live.dtype)
    if difference <= allowed:
        return ""
    dropped = _difference(without, found, "raw", live.dtype)[0] <= allowed
    would = "have dropped it" if dropped else "not have computed with all of it"
    return f"; TransformerLens would {would} (logits off by {difference:.2g})"


def _bridge(original: Any, name: str) -> HookedTransformer:
    return build_bridge_from_module(
        original, _architecture(original), hf_config=original.config, model_name=name, dtype=original.dtype
    )


def _architecture(original: Any) -> str:
    return (original.config.architectures or [type(original).__name__])[0]


def _wrap(
    original: Any, tokenizer: Any, name: str, weights: Weights, truth: _Truth | None = None, adapter: str = ""
) -> HookedTransformer:
    probe, expected = truth or _truth(original)
    digest, size = _digest(original), sum(p.numel() for p in original.parameters())
    try:
        model = _bridge(original, name)
    except Exception as error:
        what = f"{name} ({_architecture(original)})"
        raise ModelError(f"TransformerLens cannot wrap {what}: {_first_line(error)}") from error
    # Prompts are tokenized by `prompts.encode`; the bridge must never add a token of its own.
    model.cfg.tokenizer_prepends_bos = False
    model.cfg.default_prepend_bos = False
    if tokenizer is not None:
        model.tokenizer = tokenizer
    if weights == "processed":
        model.enable_compatibility_mode(disable_warnings=True)
    for parameter in model.original_model.parameters():
        parameter.requires_grad_(False)
    model.eval()
    difference, allowed = _difference(expected, _logits(model, probe), weights, original.dtype)
    if not difference <= allowed:
        raise ModelError(
            f"the wrapped {name} does not compute what the original does: logits differ by {difference:.2g} (allowed "
            f"{allowed:.2g}); TransformerLens does not support this model in this form"
        )
    _KNOWN[model] = _describe(model, name, digest, size, difference, adapter)
    return model


def _truth(original: Any) -> _Truth:
    probe = _probe(original)
    return probe, _logits(original, probe)


def _probe(original: Any, wanted: Sequence[int] = ()) -> Int[Tensor, "prompt pos"]:
    """A fixed batch of random tokens, short enough for any context, that begins with as many wanted ones as fit."""
    generator = torch.Generator().manual_seed(0)
    text = original.config.get_text_config()
    context = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or 12
    probe = torch.randint(text.vocab_size, (2, min(12, int(context))), generator=generator)
    fitting = torch.tensor(wanted[: probe.numel()], dtype=probe.dtype)
    probe.flatten()[: len(fitting)] = fitting
    return probe


def _logits(model: Any, tokens: Int[Tensor, "prompt pos"]) -> Float[Tensor, "prompt pos vocab"]:
    device = next(model.parameters()).device
    with torch.inference_mode():
        output = model(tokens.to(device))
    return (output if isinstance(output, Tensor) else output.logits).float().cpu()


def _difference(
    expected: Float[Tensor, "prompt pos vocab"],
    found: Float[Tensor, "prompt pos vocab"],
    weights: Weights,
    dtype: torch.dtype,
) -> tuple[float, float]:
    """Largest difference and the largest allowed one.

    Centring shifts raw logits, so log-probabilities stand in. Processed weights round on a path of their own, so the
    errors of both sides add up: twice as much is allowed.
    """
    spread = float((expected - expected.mean(-1, keepdim=True)).abs().max())
    allowed = _TOLERANCE.get(dtype, 5e-2) * max(1.0, spread)
    if weights == "processed":
        expected, found, allowed = expected.log_softmax(-1), found.log_softmax(-1), 2 * allowed
    return float((expected - found).abs().max()), allowed


def _digest(module: Any) -> str:
    content = hashlib.sha256()
    config = {k: v for k, v in module.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    content.update(json.dumps(config, sort_keys=True, default=repr).encode())
    for key, parameter in sorted(module.state_dict().items()):
        content.update(key.encode())
        content.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return content.hexdigest()[:16]


def _describe(
    model: HookedTransformer, name: str, digest: str, size: int, check: float, adapter: str = ""
) -> ModelInfo:
    return ModelInfo(
        name=name,
        architecture=str(model.cfg.architecture),
        weights="processed" if model._weights_processed else "raw",
        n_layers=int(model.cfg.n_layers),
        n_heads=int(model.cfg.n_heads),
        d_model=int(model.cfg.d_model),
        n_parameters=size,
        dtype=str(model.cfg.dtype).removeprefix("torch."),
        device=str(next(model.original_model.parameters()).device),
        digest=digest,
        tokenizer=_vocabulary_digest(model.tokenizer),
        check=check,
        adapter=adapter,
    )


def _vocabulary_digest(tokenizer: Any) -> str:
    if tokenizer is None:
        return ""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return hashlib.sha256(repr(vocabulary).encode()).hexdigest()[:16]
