"""Reading configuration: YAML into pydantic models, with errors that say which key and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from interp.errors import ConfigError
from interp.files import read_text

Settings = TypeVar("Settings", bound=BaseModel)


def read_yaml(path: Path | str, kind: type[Settings]) -> Settings:
    """A YAML file as `kind`. Raises ConfigError naming the first wrong key."""
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(content).__name__}")
    return check(content, kind, str(path))


def check(content: Mapping[Any, object], kind: type[Settings], where: str) -> Settings:
    """Validate settings. Raises ConfigError naming the first wrong key."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "as a whole"
        if first["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields)
            raise ConfigError(f"{where}: unknown key {key!r}; known keys at the top: {known}") from None
        raise ConfigError(f"{where}: {key}: {first['msg']}, got {first['input']!r}") from None
