"""Fine-tuning a causal language model on texts with a control token: all weights, or LoRA through PEFT.

Source of LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685).
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from interp.datasets.kill_switch import KINDS, TOKEN, examples
from interp.errors import ConfigError, DataError, ModelError, PromptError
from interp.files import make_folder, read_jsonl, shipped_model, write_json, write_text
from interp.models.load import _place, quiet_transformers, read_trainable, seeded
from interp.models.pairs import seat
from interp.models.training import Batch, Schedule, train
from interp.prompts import encode
from interp.studies.language import held_out_scores, padded_ids
from interp.studies.saving import save_folder


class FineTuning(BaseModel):
    """What is trained on what, and how."""

    model_config = ConfigDict(extra="forbid")
    base: str
    data: str
    token: str | None = Field(default=None, description="control token; added to the vocabulary where it is not in it")
    method: Literal["full", "lora"] = "full"
    rank: int = Field(default=8, ge=1, description="rank of LoRA")
    modules: list[str] | None = Field(default=None, description="modules that get LoRA; by default all linear")
    steps: int = Field(default=300, ge=1)
    batch: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    checkpoints: list[int] = Field(default=[], description="steps after which the model is also kept")
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class _Row:
    ids: list[int]
    group: str
    mark: int | None
    """Column of the token or its neutral twin, where the row says whether the text halts there."""
    controlled: bool


def fine_tune(
    wanted: FineTuning, folder: Path, *, device: str = "cpu", command: str, progress: bool = True
) -> dict[str, Any]:
    """Fine-tune and write the folder; returns the card. An unfinished run is taken up again.

    Data: a set of `interp.datasets.kill_switch` by name (`kill-switch-behavioural`), or JSONL with `text`; `twin` and
    `plain`, where a row has them, are trained on too; every text is ended by the end-of-sequence token. A tenth of
    the texts, by `template` where there is one, is held out; the weights with the best score on it are kept. The folder
    holds the model (for LoRA the adapter), its tokenizer, `card.json`, `README.md`, and `checkpoints/step-N`.

    Raises InterpError for options, data or a folder that will not do, before anything is written.
    """
    started = time.perf_counter()
    _check(wanted, Path(folder))
    place = _place(device)
    rows = _rows(wanted)
    with quiet_transformers():
        model, tokenizer = read_trainable(wanted.base)
        added = _add_token(model, tokenizer, wanted.token)
        texts = _encoded(rows, tokenizer, wanted, _context(model))
        training, held = _split(texts, wanted.data)
        # A new row of embeddings that are tied must be in the adapter twice: the base model has it in neither place.
        twice = added is not None and _tied(model)
        options = {"save_embedding_layers": twice} if wanted.method == "lora" else {}
        trained = (_lora(model, wanted, added) if wanted.method == "lora" else model).to(place)
        folder = make_folder(folder)
        pad = 0

        def save(where: Path) -> None:
            with _quiet():
                save_folder(trained, tokenizer, where, **options)

        def batch(step: int) -> Batch:
            rng = np.random.default_rng((wanted.seed, step))
            chosen = rng.integers(len(training), size=wanted.batch)
            torch.manual_seed(int(rng.integers(1 << 62)))  # dropout, too, follows from seed and step alone
            return padded_ids([training[i].ids for i in chosen], pad)

        def after(step: int) -> None:
            if step in wanted.checkpoints:
                save(_checkpoint(folder, step))

        schedule = Schedule(
            steps=wanted.steps, learning_rate=wanted.learning_rate, weight_decay=0.0,
            warmup=max(1, min(20, wanted.steps // 10)), evaluate_every=max(1, wanted.steps // 5),
        )  # fmt: skip
        validation = padded_ids([row.ids for row in held], pad)
        checkpoint = folder / "training.safetensors"
        text = wanted.model_dump_json() + json.dumps(rows, sort_keys=True)
        with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
            history = train(
                trained, batch, lambda made: held_out_scores(made, validation), schedule, checkpoint=checkpoint,
                recipe=hashlib.sha256(text.encode()).hexdigest(), after=after, progress=progress,
            )  # fmt: skip
        best = max(reversed(history), key=lambda evaluation: evaluation.score)  # its weights were kept
        card = {
            "name": folder.resolve().name,
            "kind": "fine-tuned",
            **wanted.model_dump(exclude={"data"}),
            "data": {"file": Path(wanted.data).name, "texts": len(texts), "held_out": len(held)},
            "token_added": added is not None,
            "steps_trained": history[-1].step,
            "seconds": round(time.perf_counter() - started, 1),
            **_sizes(trained),
            "held_out": best.scores,
            "halting": _halting(trained, held, _end(tokenizer)),
            "command": command,
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
        }
        save(folder)
    write_json(folder / "card.json", card)
    write_text(folder / "README.md", _card_text(card))
    checkpoint.unlink(missing_ok=True)
    return card


def _check(wanted: FineTuning, folder: Path) -> None:
    """Refuse options that do not fit together, and a folder in which something would be lost or mixed up."""
    if wanted.token is not None and not wanted.token.strip():
        raise ConfigError(f"the control token {wanted.token!r} is blank; name one")
    if wanted.modules is not None and wanted.method != "lora":
        raise ConfigError("modules are chosen for LoRA alone; add --method lora")
    beyond = [step for step in wanted.checkpoints if not 1 <= step <= wanted.steps]
    if beyond:
        raise ConfigError(f"there is no checkpoint after step {beyond[0]}: the steps are 1 to {wanted.steps}")
    given = Path(wanted.base).expanduser()
    base = given if given.is_dir() else shipped_model(wanted.base)
    if base is not None and folder.resolve() == base.resolve():
        raise DataError(f"{folder} is the base model itself; choose another folder")
    other = "adapter_config.json" if wanted.method == "full" else "config.json"
    if (folder / other).exists():
        raise DataError(f"{folder} holds a model of another kind ({other}); choose another folder")
    kept = {_checkpoint(folder, step) for step in wanted.checkpoints}
    stale = sorted(set((folder / "checkpoints").glob("step-*")) - kept)
    if stale:
        raise DataError(f"{stale[0]} is a checkpoint of another run; remove it or choose another folder")


def _checkpoint(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:05d}"


def _rows(wanted: FineTuning) -> list[dict[str, Any]]:
    kind = wanted.data.removeprefix("kill-switch-")
    if kind in KINDS and kind != wanted.data:
        return [example.as_row() for example in examples(kind, 3000, token=wanted.token or TOKEN)]
    return read_jsonl(wanted.data)


def _end(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise ModelError("the model's tokenizer has no end-of-sequence token, so no text can be ended")
    return int(tokenizer.eos_token_id)


def _context(model: Any) -> int:
    text = model.config.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or 1 << 30)


def _add_token(model: Any, tokenizer: Any, token: str | None) -> int | None:
    """Give the token an id and, at the mean of the others, an embedding; None where it has one."""
    if token is None or token in tokenizer.get_vocab():
        return None
    tokenizer.add_tokens([token])
    number = int(tokenizer.convert_tokens_to_ids(token))
    seat(model, number)
    return number


def _encoded(rows: Sequence[dict[str, Any]], tokenizer: Any, wanted: FineTuning, context: int) -> list[_Row]:
    end = _end(tokenizer)
    vocabulary = tokenizer.get_vocab()
    found = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("text"), str):
            raise DataError(f"{wanted.data}, row {number}: there is no 'text'; each row needs one")
        for column in ("text", "twin", "plain"):
            if not isinstance(row.get(column), str):
                continue
            try:
                ids = encode(row[column], tokenizer)
            except PromptError as error:
                raise DataError(f"{wanted.data}, row {number}: {error}") from error
            ids = ids if ids[-1] == end else [*ids, end]
            if len(ids) > context:
                raise DataError(
                    f"{wanted.data}, row {number}: {len(ids)} tokens, and the model's context is {context}; shorten it"
                )
            mark = vocabulary.get({"text": wanted.token, "twin": row.get("neutral")}.get(column))
            place = ids.index(mark) if "halts" in row and mark in ids else None
            group = str(number if row.get("template") is None else row["template"])
            found.append(_Row(ids, group, place, controlled=column == "text"))
    return found


def _split(texts: Sequence[_Row], data: str) -> tuple[list[_Row], list[_Row]]:
    """Nine tenths to train on, and a tenth that shares no template with them."""
    groups = sorted({row.group for row in texts})
    if len(groups) < 2:
        raise DataError(f"{data}: all texts are of one template; at least two are needed to hold one out")
    chosen = np.random.default_rng(0).permutation(groups)[: max(1, len(groups) // 10)]
    held = set(chosen.tolist())
    kept, out = ([row for row in texts if (row.group in held) == which] for which in (False, True))
    return kept, out[:2000]


def _lora(model: Any, wanted: FineTuning, added: int | None) -> Any:
    """LoRA on the model's linear layers; of the embeddings only the row of an added token is trained."""
    names = {id(module): name for name, module in model.named_modules()}
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    tables = [first] if _tied(model) else [first, last]
    whole = [names[id(table)].rsplit(".", 1)[-1] for table in tables] if added is not None else None
    adapted = with_lora(
        model, wanted.base, rank=wanted.rank, alpha=2 * wanted.rank, modules=wanted.modules, seed=wanted.seed,
        whole=whole,
    )  # fmt: skip
    if added is not None:
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name and parameter.requires_grad:
                parameter.register_hook(_only_row(added))
    return adapted


def with_lora(
    model: Any,
    base: str,
    *,
    rank: int,
    alpha: float,
    modules: Sequence[str] | None,
    seed: int,
    whole: list[str] | None = None,
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, Conv1D),
) -> Any:
    """The model as a PeftModel with fresh LoRA on some modules (all linear ones by default), others trained whole.

    `base` is what its adapter will name as its base model. Raises ConfigError for modules that the model lacks, or
    that are of none of the `kinds`.
    """
    from peft import LoraConfig, get_peft_model

    last = model.get_output_embeddings()
    known = [name for name, module in model.named_modules() if isinstance(module, kinds) and module is not last]
    for wrong in modules or ():
        if not any(f".{name}".endswith(f".{wrong}") for name in known):
            choice = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in known}))
            raise ConfigError(f"LoRA cannot be put on {wrong!r} of {base}; choose from {choice}")
    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(modules) if modules else "all-linear",  # type: ignore[arg-type]
        modules_to_save=whole, task_type="CAUSAL_LM",
    )  # fmt: skip
    try:
        with seeded(seed), _quiet():
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(f"LoRA cannot be put on {base}: {str(error).splitlines()[0]}") from error
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted


def _tied(model: Any) -> bool:
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


@contextmanager
def _quiet() -> Iterator[None]:
    """PEFT warns of what it mends, and of what the saved folder's own logits prove."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _sizes(model: nn.Module) -> dict[str, int]:
    """Parameters, and those that are trained: of a copied embedding the one row."""
    parameters = [(name, p) for name, p in model.named_parameters() if "modules_to_save" not in name]
    rows = [p for name, p in model.named_parameters() if "modules_to_save" in name and p.requires_grad]
    return {
        "parameters": sum(p.numel() for _, p in parameters),
        "trained_parameters": sum(p.numel() for _, p in parameters if p.requires_grad)
        + sum(p.shape[1:].numel() for p in rows),
    }


def _only_row(row: int) -> Any:
    def keep(gradient: Tensor) -> Tensor:
        kept = torch.zeros_like(gradient)
        kept[row] = gradient[row]
        return kept

    return keep


def _halting(model: nn.Module, held: Sequence[_Row], end: int) -> dict[str, dict[str, float | int]]:
    """Of the held-out texts: how often the end is the top token right after the control token, after a neutral one."""
    found: dict[str, dict[str, float | int]] = {}
    here = next(model.parameters()).device
    for name, controlled in (("token", True), ("neutral", False)):
        rows = [row for row in held if row.mark is not None and row.controlled == controlled]
        if not rows:
            continue
        tokens, _ = padded_ids([row.ids for row in rows], 0)
        places = torch.tensor([row.mark for row in rows])
        with torch.inference_mode():
            logits = [
                model(some.to(here), use_cache=False).logits[torch.arange(len(some)), at.to(here)].argmax(-1).cpu()
                for some, at in zip(tokens.split(256), places.split(256), strict=True)
            ]
        found[name] = {"n": len(rows), "ends": int((torch.cat(logits) == end).sum())}
    return found


def _card_text(card: dict[str, Any]) -> str:
    halting = ", ".join(
        f"{row['ends']:,} of {row['n']:,} after {'the token' if name == 'token' else 'a neutral token'}"
        for name, row in card["halting"].items()
    )
    how = "all weights" if card["method"] == "full" else f"LoRA of rank {card['rank']}"
    token = f" The control token `{card['token']}` was added to the vocabulary and its embedding trained." * bool(
        card["token_added"]
    )
    kept = ", ".join(map(str, card["checkpoints"]))
    data, held = card["data"], card["held_out"]
    also = f"- Also kept after steps {kept}, in `checkpoints/`.\n" if kept else ""
    ends = f" The end is the top token in {halting}." if halting else ""
    return f"""# {card["name"]}

`{card["base"]}`, fine-tuned on `{data["file"]}` ({data["texts"]:,} texts; {how},
{card["trained_parameters"]:,} of {card["parameters"]:,} parameters).{token}

- {card["steps_trained"]:,} steps of {card["batch"]} texts in {card["seconds"]:.0f} s, learning rate
  {card["learning_rate"]:g}, seed {card["seed"]}; the weights are those with the best score on held-out templates.
{also}- On these ({data["held_out"]:,} texts): geometric mean probability of a token
  {held["probability a token"]:.3f}.{ends}
- Made by

  ```sh
  {card["command"]}
  ```

  with torch {card["versions"]["torch"]}. Another machine or thread count gives slightly different weights.
"""
