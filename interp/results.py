"""Results on disk and as long tables: a frozen dataclass in, the same dataclass out.

Tensors go to safetensors, everything else to JSON, the long table to parquet. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp.errors import DataError
from interp.estimates import Estimate
from interp.files import atomic, read_json, write_tensors, write_text

_FILES = ("result.safetensors", "result.json", "table.parquet")
_FLOAT = "not a JSON number"


def grid_frame(axes: Mapping[str, Sequence[Any] | range], **columns: Tensor) -> pd.DataFrame:
    """A long table from tensors over prompts and the given axes, one row a cell."""
    shape = next(iter(columns.values())).shape
    index = pd.MultiIndex.from_product([range(shape[0]), *axes.values()], names=["prompt", *axes])
    flat = {name: column.detach().cpu().float().numpy().reshape(-1) for name, column in columns.items()}
    return pd.DataFrame(flat, index=index).reset_index()


def save(result: Any, folder: Path | str) -> None:
    """Write a result into a folder. Each file is atomic; `result.json` comes last and says that all is there."""
    if not is_dataclass(result) or isinstance(result, type):
        raise DataError(f"only result dataclasses can be saved, not {type(result).__name__}")
    kind = f"{type(result).__module__}.{type(result).__qualname__}"
    try:
        _result_class(kind)
    except TypeError as error:
        raise DataError(f"{error}, so it cannot be saved") from None
    folder = Path(folder)
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    arrays: list[str] = []
    estimates: list[str] = []
    for item in fields(result):
        value = getattr(result, item.name)
        if isinstance(value, Estimate):
            estimates.append(item.name)
            tensors |= {f"{item.name}.{part}": torch.from_numpy(np.array(x)) for part, x in vars(value).items()}
            continue
        if isinstance(value, np.ndarray):
            arrays.append(item.name)
            value = torch.from_numpy(np.array(value))
        if isinstance(value, Tensor):
            tensors[item.name] = value.detach().clone()
        else:
            plain[item.name] = _spelled(value)
    said = {"kind": kind, "fields": plain, "arrays": arrays} | ({"estimates": estimates} if estimates else {})
    about = json.dumps(said, indent=1, ensure_ascii=False) + "\n"
    (folder / _FILES[1]).unlink(missing_ok=True)
    write_tensors(folder / _FILES[0], tensors)
    to_frame = getattr(result, "to_frame", None)
    if to_frame is not None:
        with atomic(folder / _FILES[2]) as temporary:
            to_frame().to_parquet(temporary, index=False)
    write_text(folder / _FILES[1], about)


def load(folder: Path | str) -> Any:
    """Read back what `save` wrote. Raises DataError where it is missing, damaged or not one of ours."""
    folder = Path(folder)
    about = read_json(folder / _FILES[1])
    try:
        kind = _result_class(str(about["kind"]))
        values = {key: _read(value) for key, value in about["fields"].items()}
        with safe_open(folder / _FILES[0], "pt") as file:
            for key in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(key)
                values[key] = tensor.numpy() if key in about["arrays"] else tensor
        for name in about.get("estimates", []):
            parts = {part.name: values.pop(f"{name}.{part.name}").numpy() for part in fields(Estimate)}
            values[name] = Estimate(**parts)
        return kind(**values)
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise DataError(f"{folder} is damaged ({error}); remove it and run again") from error


def _result_class(name: str) -> type:
    """A result dataclass of this library; nothing else is ever called on behalf of a file."""
    module, _, kind = name.rpartition(".")
    found = None
    if module.startswith(
        (
            "interp.analyses.",
            "interp.circuits.",
            "interp.workflows.",
            "interp.studies.",
            "interp.models.sweeps.",
            "interp.models.generation",
            "interp.estimates",
        )
    ):
        found = getattr(importlib.import_module(module), kind, None)
    if not isinstance(found, type) or not is_dataclass(found) or found.__module__ != module:
        raise TypeError(f"{name!r} is no result of this library")
    return found


def _spelled(value: Any) -> Any:
    """A value as JSON, floats that JSON lacks as marked strings."""
    if isinstance(value, dict):
        return {str(key): _spelled(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return {_FLOAT: str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise DataError(f"a result cannot hold a {type(value).__name__}")


def _read(value: Any) -> Any:
    if isinstance(value, dict):
        return float(value[_FLOAT]) if set(value) == {_FLOAT} else {key: _read(v) for key, v in value.items()}
    return tuple(_read(v) for v in value) if isinstance(value, list) else value


def provenance() -> dict[str, Any]:
    """Versions, commit and machine: what a number needs beside it to be made again."""
    return {
        "interp": _version("interp"),
        "commit": _commit(),
        "source": source_digest(),
        "python": platform.python_version(),
        "packages": {
            name: _version(name)
            for name in ("torch", "transformer_lens", "transformers", "numpy", "scipy", "scikit-learn", "plotly")
        },
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "threads": torch.get_num_threads(),
            "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        },
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str | None:
    here = Path(__file__).resolve().parent
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        root = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--show-toplevel"],
            capture_output=True, text=True, check=True, env=environment,
        ).stdout.strip()  # fmt: skip
        if Path(root) != here.parent:
            return None
        found = subprocess.run(
            ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, check=True, env=environment,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


@cache
def source_digest() -> str:
    """Hash of this library's own source: results made by other code are not taken for finished."""
    content = hashlib.sha256()
    here = Path(__file__).resolve().parent
    for path in sorted(here.rglob("*.py")):
        content.update(str(path.relative_to(here)).encode())
        content.update(path.read_bytes())
    return content.hexdigest()[:16]


def fingerprint(*parts: Any) -> str:
    """A short hash of plain values, to tell finished work from stale work."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
