"""Where shipped data is, and reading and writing files so that nothing is lost halfway."""

from __future__ import annotations

import errno
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


def data_dir() -> Path:
    """The folder of shipped data: inside the package in an installed wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "data"
    return inside if inside.is_dir() else package.parent / "data"


def shipped_models() -> list[Path]:
    """Folders of the shipped models and adapters, by name."""
    models = data_dir() / "models"
    return sorted({p.parent for name in ("config.json", "adapter_config.json") for p in models.glob(f"*/{name}")})


def shipped_model(name: str) -> Path | None:
    """The folder of a shipped model, or None."""
    return next((folder for folder in shipped_models() if folder.name == name), None)


def shipped_transcoders() -> list[Path]:
    """Folders of the shipped transcoders, by name."""
    return sorted(file.parent for file in (data_dir() / "models").glob("*/config.yaml"))


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Write to a temporary sibling that takes the file's name only when the block ends well."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
    try:
        yield temporary
        with _writing(target):
            temporary.chmod(mode)  # safetensors leaves a file that only its owner can read
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path | str) -> Path:
    """A folder that can be written to, made if needed. Raises DataError where that cannot be."""
    folder = Path(path)
    probe = folder / f".{secrets.token_hex(6)}.part"
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    return folder


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}; choose another folder") from error


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Fill a temporary sibling that takes the folder's name, and an older one's place, when the block ends well."""
    target = Path(path)
    mark = secrets.token_hex(6)
    temporary, old = (target.with_name(f".{target.name}.{mark}.{end}") for end in ("part", "old"))
    with _writing(target):
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file has this name")
        temporary.mkdir(parents=True)
    try:
        yield temporary
        with _writing(target):
            if target.exists():
                target.replace(old)
            try:
                temporary.replace(target)
            except OSError:
                if old.exists():
                    old.replace(target)
                raise
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary, _writing(Path(path)):
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically, with text beside the tensors."""
    import safetensors.torch

    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary, _writing(Path(path)):
        try:
            safetensors.torch.save_file(content, temporary, dict(about) if about else None)
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises DataError where it is missing or malformed."""
    import safetensors.torch

    if not Path(path).is_file():
        raise DataError(f"there is no file {path}")
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def write_json(path: Path | str, content: Any, *, indent: int | None = 1) -> None:
    """Write JSON atomically; nan becomes null, as JSON has none. Large files are quicker without `indent`."""
    write_text(path, json.dumps(_plain(content), indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def read_text(path: Path | str) -> str:
    """A text file. Raises DataError where it is missing or unreadable."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def read_json(path: Path | str) -> Any:
    """A JSON file. Raises DataError where it is missing or malformed."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: {error}") from error


def weights_mark(folder: Path | str) -> str:
    """Hash of a folder's safetensors: tells its weights apart from others of the same name."""
    found = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


def write_jsonl(path: Path | str, rows: list[dict[str, Any]]) -> None:
    """One JSON object a line, written atomically."""
    write_text(path, "".join(json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """One JSON object a line. Raises DataError with the line that is malformed."""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected an object, found {type(row).__name__}")
        rows.append(row)
    if not rows:
        raise DataError(f"{path} is empty")
    return rows
