"""Transcoders of a model, trained on texts and written as a folder with a card: `interp train transcoders MODEL`."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.circuits.formats import write_transcoders
from interp.circuits.training import Quality, TranscoderShape, quality, train_transcoders
from interp.datasets.labelled import rows_of
from interp.errors import DataError, ModelError
from interp.files import make_folder, write_json, write_text
from interp.models.load import HookedTransformer, info
from interp.prompts import Prompts

_HELD_OUT = 0.1
"""Share of the texts that quality is measured on, and none is trained on."""
_MOST_HELD_OUT = 512


def read_texts(path: Path | str, *, column: str = "text") -> list[str]:
    """One column of a CSV or JSONL table, each text once. Raises DataError where it is missing or empty."""
    found = {}
    for line, row in rows_of(Path(path)):
        text = row.get(column)
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{path}, line {line}: the column {column!r} is missing or empty; there are {', '.join(row)}"
            )
        found[text] = True
    if len(found) < 20:
        raise DataError(f"{path} has {len(found)} different texts; transcoders are trained on at least 20")
    return list(found)


def transcoders_from_texts(
    model: HookedTransformer,
    texts: list[str],
    shape: TranscoderShape,
    folder: Path | str,
    *,
    name: str,
    command: str,
    data: str = "texts",
    progress: bool = False,
) -> dict[str, Any]:
    """Train on nine in ten of the texts, measure on the others, write the folder; returns the card.

    A training that was cut off goes on. The weights are rounded to bfloat16 before they are measured and written.
    """
    if model.tokenizer is None:
        raise ModelError(f"{info(model).name} has no tokenizer, so it cannot read texts")
    started = time.perf_counter()
    out = make_folder(folder)
    prompts = Prompts.from_texts(texts, model.tokenizer)
    order = np.random.default_rng(shape.seed).permutation(len(texts))
    held = order[: min(_MOST_HELD_OUT, math.ceil(_HELD_OUT * len(texts)))]
    left = order[len(held) :]
    # Of a text's first two columns few are trained on.
    count = min(len(left), math.ceil(1.2 * shape.tokens / max(1.0, float(prompts.lengths.float().mean()) - 1.8)))

    def some(step: int) -> Prompts:
        chosen = np.random.default_rng((shape.seed, step)).choice(left, count, replace=False)
        return _trimmed(prompts, torch.from_numpy(chosen))

    state = out / "training.safetensors"
    made = train_transcoders(
        model, some, shape, checkpoint=state, data=f"{data} {prompts.digest}", progress=progress
    ).to(torch.bfloat16)  # fmt: skip
    worth = quality(model, made.to(model.cfg.dtype), _trimmed(prompts, torch.from_numpy(held)))
    card = {
        "name": name,
        "kind": "transcoders",
        "model": info(model).name,
        "shape": shape.model_dump(),
        "texts": {"from": data, "trained on": len(left), "held out": len(held), "tokens held out": worth.tokens},
        "explained_variance": _numbers(worth.explained),
        "l0": _numbers(worth.l0),
        "dead_share": _numbers(worth.dead),
        "loss_recovered": round(worth.recovered, 4),
        "seconds": round(time.perf_counter() - started, 1),
        "command": command,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    write_transcoders(made, out, model=info(model).name, scan=name)
    write_json(out / "card.json", card)
    write_text(out / "README.md", _card_text(card, shape, worth))
    state.unlink(missing_ok=True)
    return card


def _trimmed(prompts: Prompts, chosen: Tensor) -> Prompts:
    """Some prompts, no wider than the longest of them."""
    width = int(prompts.lengths[chosen].max())
    return Prompts.from_tokens(prompts.tokens[chosen, :width], prompts.mask[chosen, :width])


def _numbers(values: Tensor) -> list[float]:
    return [round(float(value), 4) for value in values]


def _card_text(card: dict[str, Any], shape: TranscoderShape, worth: Quality) -> str:
    rows = "\n".join(
        f"| {layer} | {explained:.3f} | {l0:.1f} | {dead:.1%} |"
        for layer, (explained, l0, dead) in enumerate(
            zip(worth.explained.tolist(), worth.l0.tolist(), worth.dead.tolist(), strict=True)
        )
    )
    kind = f"TopK {shape.k}" if shape.activation == "topk" else shape.activation
    texts = card["texts"]
    return f"""# {card["name"]}

Transcoders of {card["model"]}: {shape.form}, {kind}, {shape.features:,} features a layer, in circuit-tracer's files and
in bfloat16. Trained for {shape.steps:,} steps of {shape.tokens:,} tokens on {texts["trained on"]:,} texts
({texts["from"]}) in {card["seconds"]:.0f} s, seed {shape.seed}.

On {texts["held out"]:,} further texts ({worth.tokens:,} tokens), rounded as they are written:

| layer | explained variance | L0 | dead |
|---|---|---|---|
{rows}

Loss recovered with all of them in the MLPs' places at once: {worth.recovered:.3f} (0: every MLP writes its mean).
Dead are features that none of these tokens makes active. Made by

```sh
{card["command"]}
```

with torch {card["versions"]["torch"]}.
"""
