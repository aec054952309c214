"""The options of the safety-circuits study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from interp.errors import ConfigError


def circuit_study(
    config: Path | None, device: str | None, out: Path, options: Mapping[str, Any], *, command: str
) -> Callable[[], Any]:
    """What builds the study."""
    from interp.settings import check, read_yaml
    from interp.studies.safety_circuits.settings import CircuitSettings
    from interp.studies.safety_circuits.study import safety_circuits

    settings = read_yaml(config, CircuitSettings) if config else CircuitSettings()
    given = {name: value for name, value in options.items() if value is not None}
    model, transcoder = given.pop("model", None), given.pop("transcoder", None)
    if (model is None) != (transcoder is None):
        raise ConfigError("a model of your own needs --model and --transcoder together")
    if given.pop("all", None):
        given["graphs"] = None
    if "categories" in given:
        given["categories"] = [name.strip() for name in given["categories"].split(",") if name.strip()]
    settings = check({**settings.model_dump(), **given}, CircuitSettings, "the options")
    return partial(
        safety_circuits, settings, out, device=device, command=command, model=model, transcoders=transcoder
    )  # fmt: skip
