"""A fine-tuned model that is a base model and an adapter (PEFT): with which weights does the pair compute?

LoRA (Hu et al. 2021, arXiv 2106.09685) and its kin leave the base model as it is and add a small trained change to
some of its layers. Weights that an analysis reads (W_Q, W_O, ...) are then the base model's, and a wrapper that reads
them drops the change without a word. So an adapter is attached as PEFT does it, and merged into the weights; what is
true is what PEFT's own forward computes.

PEFT is imported by the first function that needs it. Errors that it raises are left to the caller.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from interp.errors import ModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

KINDS = {
    "LORA": "LoRA",
    "ADALORA": "AdaLoRA",
    "LOHA": "LoHa",
    "LOKR": "LoKr",
    "IA3": "IA3",
    "OFT": "OFT",
    "BOFT": "BOFT",
    "HRA": "HRA",
    "VERA": "VeRA",
    "LN_TUNING": "LN tuning",
    "TRAINABLE_TOKENS": "trainable tokens",
}
"""The kinds that are a change of weights alone. Prompts, prefixes and routers change the computation."""


def adapter_folder(given: str | Path) -> Path | None:
    """The folder, where it holds an adapter; None where it is something else."""
    path = Path(given).expanduser()
    if not str(given) or not (path / CONFIG).is_file():
        return None
    if (path / "config.json").is_file() and any(file.name != WEIGHTS for file in path.glob("*.safetensors")):
        raise ModelError(
            f"{path} holds a model (config.json) and an adapter ({CONFIG}): give the adapter a folder of its own"
        )
    return path


def is_adapted(module: nn.Module) -> bool:
    """Whether this is PEFT's wrapper around a model."""
    peft = sys.modules.get("peft")  # without it nobody can have made one
    return peft is not None and isinstance(module, peft.PeftModel)


def refuse_loose_layers(model: nn.Module, name: str) -> None:
    """Raise ModelError where adapter layers sit in a model without PEFT's wrapper: they cannot be told apart there."""
    for key, module in model.named_modules():
        if type(module).__module__.startswith("peft."):
            raise ModelError(
                f"{name} holds adapter layers ({key}) but is no PeftModel; "
                "give the PeftModel itself, the adapter's own folder, or merge it with merge_and_unload()"
            )


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of an adapter, from JSON, refused where interp cannot merge what they call for."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{folder / CONFIG} is damaged: {error}; restore it") from error
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise ModelError(f"{folder / CONFIG} is damaged: it names no peft_type; restore it")
    _refuse_kind(config["peft_type"], str(folder))
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise ModelError(f"{folder} is an adapter for {config['task_type']}, not for a causal language model")
    if config.get("megatron_config"):
        raise ModelError(f"{folder} needs Megatron, which is imported by a name in {CONFIG}: interp does not do that")
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        found = "only adapter_model.bin, which can run code when it is read" if pickled else f"no {WEIGHTS}"
        raise ModelError(f"{folder} has {found}; save the adapter again with save_pretrained as safetensors")
    return {key: value for key, value in config.items() if key not in ("runtime_config", "auto_mapping")}


def base_of(folder: Path, config: dict[str, Any]) -> str | Path:
    """The base model that the adapter names: a name, or a folder, which may be meant from the adapter's own."""
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise ModelError(f"{folder / CONFIG} names no base model; give one with base=")
    beside = folder / named
    return beside if beside.is_dir() and not Path(named).expanduser().is_dir() else named


def attach(base: Any, folder: Path, config: dict[str, Any]) -> Any:
    """The base model with the adapter of a folder attached: a PeftModel that computes with both.

    PEFT only warns about tensors that are missing or have no place; here they are a ModelError. A base model with
    another vocabulary is resized to the adapter's.
    """
    import peft

    weights = load_file(folder / WEIGHTS)
    ends = _ends(base)
    with _quiet():
        _fit_vocabulary(base, ends, weights, folder)
        model = peft.PeftModelForCausalLM(base, _settings(folder, config))
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        report = peft.set_peft_model_state_dict(model, weights)
    missing = sorted(trained & set(report.missing_keys))
    beyond = [key for key in report.unexpected_keys if not _repeated(key, weights, report.unexpected_keys, ends)]
    for keys, fault in ((missing, "lacks {} tensors of its config"), (beyond, "has {} tensors without a place")):
        if keys:
            raise ModelError(
                f"the adapter {folder} {fault.format(len(keys))} ({keys[0]}, ...): it is damaged or made for another "
                "base model; give the right one with base="
            )
    return model


def describe(model: Any, name: str) -> str:
    """The kinds and ranks of the active adapters, as "LoRA r=4"; ModelError for one that cannot be merged."""
    said = []
    for adapter in model.active_adapters or model.peft_config:
        config = model.peft_config[adapter]
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        _refuse_kind(kind, name)
        title = "DoRA" if getattr(config, "use_dora", False) else KINDS[kind]
        rank = getattr(config, "r", None)
        said.append(f"{title} r={rank}" if isinstance(rank, int) and rank else title)
    return " + ".join(said)


def refuse_switched_off(model: Any, name: str) -> None:
    """Raise ModelError where the adapter was switched off before: its weights say one thing, its forward another."""
    if model.get_model_status().enabled is not True or not model.active_adapters:
        raise ModelError(
            f"the adapter of {name} is switched off, at least in part: give adapter=False, or switch it on with "
            "base_model.enable_adapter_layers() and set_adapter"
        )


@contextmanager
def switched(model: Any, on: bool) -> Iterator[None]:
    """Let the model compute with its adapter, or as PEFT has it without."""
    with _quiet():
        if on:
            yield
        else:
            with model.disable_adapter():
                yield


def trained_tokens(model: Any) -> list[int]:
    """Tokens whose embeddings alone were trained, which a random probe would hardly meet."""
    found: set[int] = set()
    for adapter in model.active_adapters:
        config = model.peft_config[adapter]
        for option in ("trainable_token_indices", "token_indices"):
            chosen = getattr(config, option, None) or []
            lists = chosen.values() if isinstance(chosen, dict) else [chosen]
            found.update(int(token) for tokens in lists for token in tokens)
    return sorted(found)


def merged(model: Any, on: bool) -> Any:
    """The plain Hugging Face model that computes what the adapted one does, made out of it: `model` is used up.

    `on=False` gives the base model. PEFT's own `unload` would keep the trained copies of `modules_to_save`.
    """
    from peft.utils import ModulesToSaveWrapper

    with _quiet():
        if model.get_model_status().merged_adapters:
            model.unmerge_adapter()
        if on:
            _untie(model.get_base_model())
            return model.merge_and_unload(safe_merge=True)
        core = model.get_base_model()
        for key, module in list(core.named_modules()):
            if isinstance(module, ModulesToSaveWrapper):
                core.set_submodule(key, module.original_module)
        return model.unload()


@contextmanager
def _quiet() -> Iterator[None]:
    """PEFT warns of what it mends or leaves to be checked; here everything is checked by its logits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _refuse_kind(kind: str, name: str) -> None:
    if kind not in KINDS:
        raise ModelError(
            f"{name} is a {kind} adapter, which interp cannot merge into the weights; it can: {', '.join(KINDS)}"
        )


def _settings(folder: Path, config: dict[str, Any]) -> Any:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]]
    known = set(inspect.signature(kind).parameters)
    beyond = sorted(key for key, value in config.items() if value and key not in known | {"peft_version"})
    if beyond:
        raise ModelError(f"{folder / CONFIG} asks for {', '.join(beyond)}, which this PEFT does not know: upgrade it")
    return kind(**{key: value for key, value in config.items() if key in known} | {"inference_mode": False})


def _ends(base: Any) -> dict[str, Any]:
    """The embedding and the unembedding by name."""
    ends = base.get_input_embeddings(), base.get_output_embeddings()
    return {name: module for name, module in base.named_modules() if any(module is end for end in ends)}


def _fit_vocabulary(base: Any, ends: dict[str, Any], weights: dict[str, Tensor], folder: Path) -> None:
    """Resize the base model to the vocabulary of the embeddings in the adapter, as was done before it was trained.

    New rows come from the adapter. What it does not hold of them, with the adapter off, is the mean of the others.
    """
    saved = {name: _saved_rows(weights, name) for name in ends}
    sizes = {rows for rows in saved.values() if rows}
    old = len(base.get_input_embeddings().weight)
    if len(sizes) != 1 or sizes == {old}:
        return  # where they contradict each other, reading them fails
    (new,) = sizes
    lost = [name for name, rows in saved.items() if not rows]
    if new > old and lost:
        raise ModelError(
            f"the adapter {folder} has {new} tokens and its base model {old}; new rows of {lost[0]} are in neither: "
            "give base= a folder of the base model as it was resized for training"
        )
    base.resize_token_embeddings(new, mean_resizing=False)
    with torch.no_grad():
        for end in (base.get_input_embeddings(), base.get_output_embeddings()):
            for values in (end.weight, getattr(end, "bias", None)):
                if values is not None and new > old:
                    values[old:] = values[:old].mean(0)


def _saved_rows(weights: dict[str, Tensor], end: str) -> int:
    """Rows of the whole weight of an embedding among an adapter's tensors; 0 where it is not there."""
    pattern = re.compile(rf"base_model\.model\.{re.escape(end)}\.((token_adapter\.)?base_layer\.)?weight")
    return next((len(tensor) for key, tensor in weights.items() if pattern.fullmatch(key)), 0)


def _repeated(key: str, weights: dict[str, Tensor], placeless: list[str], ends: dict[str, Any]) -> bool:
    """Whether a tensor without a place repeats one that has one: PEFT saves resized embeddings several times over."""
    if key not in weights or not any(key.startswith(f"base_model.model.{end}.") for end in ends):
        return False
    return any(torch.equal(weights[key], tensor) for other, tensor in weights.items() if other not in placeless)


def _untie(model: Any) -> None:
    """Give the unembedding weights of its own where merging into one end must not reach the other."""
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    ends: tuple[Any, Any] = model.get_input_embeddings(), model.get_output_embeddings()
    changed = [isinstance(end, BaseTunerLayer) and not isinstance(end, TrainableTokensLayer) for end in ends]
    first, last = (getattr(end, "base_layer", end) if one else end for end, one in zip(ends, changed, strict=True))
    if any(changed) and first.weight is last.weight:
        last.weight = nn.Parameter(last.weight.detach().clone())
        model.config.tie_word_embeddings = False
