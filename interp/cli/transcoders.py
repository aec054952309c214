"""`interp train transcoders`: what the options mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from interp.errors import ConfigError


def train(
    model: str | None,
    texts: Path | None,
    column: str,
    options: Mapping[str, str | int | float | None],
    output_dir: Path | None,
    *,
    device: str | None,
    command: str,
    quiet: bool,
) -> Iterator[str]:
    """Train and write; yields lines to print."""
    if model is None:
        raise ConfigError("name the model: interp train transcoders MODEL --texts FILE")
    if texts is None:
        raise ConfigError("transcoders are trained on texts that the model reads; give --texts FILE (JSONL or CSV)")
    from interp.circuits.training import TranscoderShape
    from interp.models.load import load_model
    from interp.settings import check
    from interp.studies.safety_circuits.transcoder_recipe import read_texts, transcoders_from_texts

    given = {name: value for name, value in options.items() if value is not None}
    shape = check(given, TranscoderShape, "the options")
    read = read_texts(texts, column=column)
    found = load_model(model, device=device, weights="raw")
    folder = output_dir or Path("runs") / f"{Path(model).name}-transcoders"
    name = folder.resolve().name
    card = transcoders_from_texts(
        found, read, shape, folder, name=name, command=command, data=texts.name, progress=not quiet
    )
    explained = ", ".join(f"{value:.3f}" for value in card["explained_variance"])
    recovered = f"loss recovered {card['loss_recovered']:.3f}"
    yield f"{name}: explained variance {explained}; {recovered}; {card['seconds']:.0f} s"
    yield f"transcoders: {folder}"
