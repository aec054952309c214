"""A trained model as a Hugging Face folder, whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from safetensors import SafetensorError

from interp.errors import DataError
from interp.files import write_json, write_text


def save_folder(model: Any, tokenizer: Any, folder: Path, **options: Any) -> None:
    """Write model (or PEFT adapter) and tokenizer into `folder`, each file put in its place when all are written.

    `options` go to the model's `save_pretrained`.
    """
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.part")
    try:
        temporary.mkdir(parents=True)
        model.save_pretrained(temporary, **options)
        tokenizer.save_pretrained(temporary)
        (temporary / "README.md").unlink(missing_ok=True)  # PEFT's form to fill in; ours comes from the card
        mode = next(temporary.glob("*config.json")).stat().st_mode
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(temporary.iterdir()):
            file.chmod(mode)  # safetensors leaves a file that only its owner can read
            file.replace(folder / file.name)
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot write {folder}: {error}; choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_cards(folder: Path, recipe: BaseModel, card: Mapping[str, Any], text: str) -> None:
    """Write how a model was made beside it: the recipe as it was given, the card as JSON and to be read."""
    write_text(folder / "train.yaml", yaml.safe_dump(recipe.model_dump(exclude_unset=True), sort_keys=False))
    write_json(folder / "card.json", card)
    write_text(folder / "README.md", text)
