"""Files of transcoders: folders of circuit-tracer (per layer and cross layer) and of SAELens, and GemmaScope's arrays.

circuit-tracer: `config.yaml` and `layer_{i}.safetensors`, or `W_enc_{i}.safetensors` and `W_dec_{i}.safetensors`.
A `config.yaml` may list the files of its layers instead, here or on the hub. SAELens: a folder with `cfg.json` and
`sae_weights.safetensors` for each layer. GemmaScope (Lieberum et al., arXiv 2408.05147): `params.npz` for each layer.
All are read as they are and nothing in them is executed; circuit-tracer's and SAELens' are written, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from interp.circuits.hub import SCHEME, Place, fetch_file, fetch_folder
from interp.circuits.transcoders import Reads, Transcoder, Transcoders
from interp.errors import DataError
from interp.files import (
    data_dir,
    make_folder,
    read_json,
    read_tensors,
    read_text,
    shipped_transcoders,
    write_json,
    write_tensors,
    write_text,
)

_HOOKS: dict[str, Reads] = {
    "hook_resid_mid": "resid_mid", "ln2.hook_normalized": "normalized", "mlp.hook_in": "mlp_in",
}  # fmt: skip
_WRITTEN = ("hook_mlp_out", "mlp.hook_out")
"""Behind a norm that follows the MLP, or before it; one place where there is none."""
_ON_THE_HUB = ("config.yaml", "layer_*.safetensors", "W_enc_*.safetensors", "W_dec_*.safetensors",
               "*cfg.json", "*sae_weights.safetensors")  # fmt: skip
"""Files of a repository that make a set; arrays of GemmaScope lie there in many sizes and are named one by one."""
GEMMA = "google/gemma-scope-2b-pt-transcoders"
_GEMMA_L0 = (76, 65, 49, 54, 88, 87, 95, 70, 52, 72, 88, 5, 6, 8, 8, 8, 10, 12, 13, 12, 11, 13, 15, 25, 37, 41)
"""Of each layer the sparsest of its 16k transcoders, as circuit-tracer and Neuronpedia take them for Gemma-2-2B."""


def load_transcoders(name_or_path: Path | str, *, dtype: torch.dtype | None = None) -> Transcoders:
    """A set by name: a folder here, one shipped with interp, a repository of the hub, or `gemma`.

    A folder is of any format that `read_transcoders` reads. A repository is `owner/name`, with a folder inside
    (`owner/name/folder`) or a revision (`owner/name@revision`) where needed; without a network its cached copy serves.
    `gemma` is the published set of Gemma-2-2B, 16k features a layer. `dtype` is by default that of the files.

    Raises DataError, in one line, where there is no such set or the hub cannot be asked.
    """
    text, path = str(name_or_path), Path(name_or_path).expanduser()
    shipped = data_dir() / "models" / text
    place = None if isinstance(name_or_path, Path) or path.is_absolute() else Place.of(text)
    if text and path.is_dir():
        return read_transcoders(path, dtype=dtype)
    if re.fullmatch(r"[\w-]+", text) and shipped.is_dir():
        return read_transcoders(shipped, dtype=dtype)
    if text == "gemma" or place == Place(GEMMA):
        files = [f"{SCHEME}{GEMMA}/layer_{i}/width_16k/average_l0_{n}/params.npz" for i, n in enumerate(_GEMMA_L0)]
        found = Transcoders(_listed(files, Path()), "normalized", "gemma")
        return found if dtype is None else found.to(dtype)
    if place is None:
        names = ", ".join(folder.name for folder in shipped_transcoders())
        raise DataError(
            f"there is no folder {text!r} with transcoders; give one, a shipped set ({names}), a repository of the hub "
            "(owner/name), or gemma"
        )
    return replace(read_transcoders(fetch_folder(place, _ON_THE_HUB), dtype=dtype), name=text)


def read_transcoders(path: Path | str, *, dtype: torch.dtype | None = None) -> Transcoders:
    """A set from a folder of any of the formats; `dtype` is by default that of the files.

    Raises DataError where files are missing or malformed, or where features read or write elsewhere than at an MLP.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} with transcoders")
    if (folder / "config.yaml").exists() or list(folder.glob("layer_*.safetensors")) or list(folder.glob("W_enc_*")):
        found = _circuit_tracer(folder)
    elif list(folder.glob("**/cfg.json")):
        found = _sae_lens(folder)
    elif list(folder.glob("**/*.npz")):
        found = _gemma_scope(folder)
    else:
        raise DataError(
            f"{folder} holds no transcoders: looked for config.yaml, layer_0.safetensors, W_enc_0.safetensors, "
            "cfg.json and params.npz"
        )
    return found if dtype is None else found.to(dtype)


def write_transcoders(transcoders: Transcoders, folder: Path | str, *, model: str = "", scan: str = "") -> None:
    """Write a folder as circuit-tracer reads it: per layer, or cross layer where features write to layers above.

    TopK goes beside the weights as `k`, which circuit-tracer does not read. Raises DataError for cross-layer
    transcoders with TopK, which have no format.
    """
    out = make_folder(folder)
    cross = transcoders.cross
    if cross and any(one.k is not None for one in transcoders.layers):
        raise DataError("cross-layer transcoders with TopK have no file format; use a threshold")
    for number, one in enumerate(transcoders.layers):
        if cross:
            encoder = {"W_enc": one.encoder, "b_enc": one.encoder_bias, "b_dec": one.decoder_bias}
            encoder |= {} if one.threshold is None else {"threshold": one.threshold}
            encoder |= {} if one.skip is None else {"W_skip": one.skip.T}
            write_tensors(out / f"W_enc_{number}.safetensors", {f"{k}_{number}": v for k, v in encoder.items()})
            write_tensors(out / f"W_dec_{number}.safetensors", {f"W_dec_{number}": one.decoder})
        else:
            content = {
                "W_enc": one.encoder, "W_dec": one.decoder[:, 0], "b_enc": one.encoder_bias, "b_dec": one.decoder_bias,
            }  # fmt: skip
            content |= {} if one.threshold is None else {"activation_function.threshold": one.threshold}
            content |= {} if one.skip is None else {"W_skip": one.skip}
            content |= {} if one.k is None else {"k": torch.tensor(one.k)}
            write_tensors(out / f"layer_{number}.safetensors", content)
    hooks = {name: hook for hook, name in _HOOKS.items()}
    about = {
        "model_kind": "cross_layer_transcoder" if cross else "transcoder_set", "model_name": model,
        "feature_input_hook": hooks[transcoders.reads], "feature_output_hook": _WRITTEN[transcoders.before_norm],
        "scan": scan or transcoders.name,
    }  # fmt: skip
    write_text(out / "config.yaml", yaml.safe_dump(about, sort_keys=False))


def write_sae_lens(transcoders: Transcoders, folder: Path | str, *, model: str = "") -> None:
    """Write one SAELens folder a layer: `layer_0`, `layer_1`, ... Raises DataError for cross-layer transcoders."""
    if transcoders.cross:
        raise DataError("SAELens has no cross-layer transcoders; write a circuit-tracer folder")
    out = make_folder(folder)
    hooks = {name: hook for hook, name in _HOOKS.items()}
    for number, one in enumerate(transcoders.layers):
        size, width = one.encoder.shape
        content = {
            "W_enc": one.encoder.T, "W_dec": one.decoder[:, 0], "b_enc": one.encoder_bias, "b_dec": one.decoder_bias,
        }  # fmt: skip
        content |= {} if one.threshold is None else {"threshold": one.threshold}
        content |= {} if one.skip is None else {"W_skip": one.skip}
        kind = "jumprelu_transcoder" if one.threshold is not None else "transcoder"
        kind = "skip_transcoder" if one.skip is not None and one.threshold is None else kind
        about: dict[str, Any] = {
            "architecture": kind, "d_in": width, "d_out": width, "d_sae": size, "dtype": str(one.encoder.dtype)[6:],
            "device": "cpu", "apply_b_dec_to_input": False, "normalize_activations": "none",
            "reshape_activations": "none",
            "metadata": {
                "model_name": model, "hook_name": f"blocks.{number}.{hooks[transcoders.reads]}",
                "hook_name_out": f"blocks.{number}.{_WRITTEN[transcoders.before_norm]}",
            },
        }  # fmt: skip
        if one.k is not None:
            about["k"] = one.k
        write_tensors(out / f"layer_{number}" / "sae_weights.safetensors", content)
        write_json(out / f"layer_{number}" / "cfg.json", about)


def _circuit_tracer(folder: Path) -> Transcoders:
    about = _yaml(folder / "config.yaml") if (folder / "config.yaml").exists() else {}
    write = about.get("feature_output_hook", _WRITTEN[0])
    reads = _reads(folder, about.get("feature_input_hook", "hook_resid_mid"), write)
    rest = (reads, str(about.get("scan") or folder.name), write == _WRITTEN[1])
    if list(folder.glob("W_enc_*.safetensors")):
        layers = []
        total = len(list(folder.glob("W_enc_*.safetensors")))
        for number in range(total):
            content = {
                key.removesuffix(f"_{number}"): tensor
                for file in ("W_enc", "W_dec")
                for key, tensor in read_tensors(folder / f"{file}_{number}.safetensors").items()
            }
            skip = content.get("W_skip")
            content |= {} if skip is None else {"W_skip": skip.T}
            layers.append(_transcoder(folder / f"W_enc_{number}.safetensors", content))
        return Transcoders(tuple(layers), *rest)
    if about.get("transcoders"):
        return Transcoders(_listed(about["transcoders"], folder), *rest)
    files = _by_layer(folder, list(folder.glob("layer_*.safetensors")))
    return Transcoders(tuple(_transcoder(file, read_tensors(file)) for file in files), *rest)


def _sae_lens(folder: Path) -> Transcoders:
    layers, hooks = [], set()
    for file in _by_layer(folder, list(folder.glob("**/cfg.json"))):
        about = read_json(file)
        beside = about.get("metadata") or {}
        if about.get("apply_b_dec_to_input") or about.get("normalize_activations", "none") not in ("none", None):
            raise DataError(f"{file}: inputs that are shifted or scaled before they are read are not supported")
        hooks.add(tuple(_bare(about.get(name) or beside.get(name)) for name in ("hook_name", "hook_name_out")))
        content = dict(read_tensors(file.with_name("sae_weights.safetensors")))
        if "W_enc" in content:
            content["W_enc"] = content["W_enc"].T.contiguous()
        k = about.get("k") or (about.get("activation_fn_kwargs") or {}).get("k")
        content |= {} if k is None else {"k": torch.tensor(int(k))}
        layers.append(_transcoder(file, content))
    if len(hooks) != 1:
        raise DataError(
            f"{folder}: the transcoders of one set read and write at one kind of place, not at {sorted(hooks)}"
        )
    read, write = hooks.pop()
    return Transcoders(tuple(layers), _reads(folder, read, write), folder.name, write == _WRITTEN[1])


def _gemma_scope(folder: Path) -> Transcoders:
    files = _by_layer(folder, list(folder.glob("**/*.npz")))
    return Transcoders(tuple(map(_arrays, files)), "normalized", folder.name)


def _arrays(file: Path) -> Transcoder:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            content = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    if "W_enc" in content:
        content["W_enc"] = content["W_enc"].T.contiguous()
    return _transcoder(file, content)


def _listed(files: object, folder: Path) -> tuple[Transcoder, ...]:
    """Transcoders of files in the order of their layers, each in the folder or, as `hf://...`, on the hub."""
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise DataError(f"{folder / 'config.yaml'}: transcoders should be a list of files")
    layers = []
    for file in files:
        place = Place.of(file) if file.startswith(SCHEME) else None
        if file.startswith(SCHEME) and place is None:
            raise DataError(f"{folder / 'config.yaml'}: {file} names no file of the hub")
        path = folder / file if place is None else fetch_file(place)
        layers.append(_arrays(path) if path.suffix == ".npz" else _transcoder(path, read_tensors(path)))
    return tuple(layers)


def _transcoder(file: Path, content: Mapping[str, Tensor]) -> Transcoder:
    missing = [name for name in ("W_enc", "W_dec", "b_enc", "b_dec") if name not in content]
    if missing:
        raise DataError(f"{file} lacks {missing[0]}; it has {', '.join(content) or 'nothing'}")
    if "log_thresholds" in content:
        raise DataError(f"{file} holds log_thresholds, of a kind of transcoder that is not supported")
    encoder, decoder = content["W_enc"], content["W_dec"]
    decoder = decoder[:, None] if decoder.ndim == 2 else decoder
    size, width = encoder.shape
    wanted = {"b_enc": (size,), "b_dec": (width,)}
    threshold = content.get("activation_function.threshold", content.get("threshold"))
    if (
        decoder.shape[0] != size
        or decoder.shape[2] != width
        or any(tuple(content[name].shape) != shape for name, shape in wanted.items())
    ):
        raise DataError(f"{file}: the shapes of its tensors do not fit each other ({size} features of width {width})")
    k = content.get("k")
    return Transcoder(
        encoder, content["b_enc"], decoder, content["b_dec"], None if threshold is None else threshold.flatten(),
        None if k is None else int(k), content.get("W_skip"),
    )  # fmt: skip


def _by_layer(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Files by the layer that their path names, one for each from 0 on."""
    named: dict[int, Path] = {}
    for file in files:
        numbers = re.findall(r"(?:layer|blocks)[_.]?(\d+)", str(file.relative_to(folder)))
        if not numbers:
            raise DataError(f"{file}: which layer is it of? Its path should say so, as in layer_0")
        if int(numbers[-1]) in named:
            raise DataError(f"{file} and {named[int(numbers[-1])]} are both of layer {numbers[-1]}; keep one")
        named[int(numbers[-1])] = file
    lacking = set(range(len(named))) - set(named)
    if lacking or not named:
        raise DataError(f"{folder} has no transcoder of layer {min(lacking, default=0)}; a set has one for every layer")
    return [named[number] for number in sorted(named)]


def _bare(hook: object) -> str:
    return re.sub(r"^blocks\.\d+\.", "", str(hook))


def _reads(folder: Path, read: object, write: object) -> Reads:
    if str(read) not in _HOOKS:
        raise DataError(f"{folder}: features read at {read}; known are {', '.join(_HOOKS)}")
    if write is not None and str(write) not in _WRITTEN:
        raise DataError(f"{folder}: features write at {write}; known are {', '.join(_WRITTEN)}")
    return _HOOKS[str(read)]


def _yaml(file: Path) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        raise DataError(f"{file} is not YAML: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{file} should hold names and values")
    return found
