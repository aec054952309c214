"""`interp train` and `interp finetune`: models are made."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.monitor import Watcher
from interp.cli.options import Device, Quiet, Threads, out_console, typed, use_threads
from interp.errors import ConfigError


class MethodName(StrEnum):
    """Ways to fine-tune."""

    full = "full"
    lora = "lora"


def train_command(
    recipe: Annotated[
        Path, typer.Argument(help="A recipe as YAML, a shipped model, whose recipe is taken, or `transcoders`.")
    ],
    model: Annotated[str | None, typer.Argument(help="Transcoders: of which model.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Folder of the model; by default runs/NAME.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's seed.")] = None,
    visualize: Annotated[
        bool, typer.Option("--visualize", help="Judges: watch the training and write its pages.")
    ] = False,
    visualization_interval: Annotated[
        int | None, typer.Option(min=1, help="Judges: look after so many steps; by default ever more rarely.")
    ] = None,
    texts: Annotated[Path | None, typer.Option(help="Transcoders: texts as JSONL or CSV.")] = None,
    column: Annotated[str, typer.Option(help="Transcoders: the column of the texts.")] = "text",
    form: Annotated[str | None, typer.Option(help="Transcoders: per-layer, skip or cross-layer.")] = None,
    activation: Annotated[str | None, typer.Option(help="Transcoders: topk, jumprelu or relu.")] = None,
    features: Annotated[int | None, typer.Option(help="Transcoders: features of each layer.")] = None,
    k: Annotated[int | None, typer.Option(help="Transcoders: active features of a token, for topk.")] = None,
    sparsity: Annotated[float | None, typer.Option(help="Transcoders: penalty, for jumprelu and relu.")] = None,
    steps: Annotated[int | None, typer.Option(help="Transcoders: training steps.")] = None,
    device: Device = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Train a small model, or transcoders of a model; a run that was cut off goes on from its last checkpoint.

    `interp train transcoders MODEL --texts FILE` trains a transcoder for every layer on texts that the model reads, and
    writes a folder for `interp graph`.
    """
    use_threads(threads)
    if str(recipe) == "transcoders" and not recipe.exists():
        from interp.cli.transcoders import train

        shape = {
            "form": form, "activation": activation, "features": features, "k": k, "sparsity": sparsity, "steps": steps,
            "seed": seed,
        }  # fmt: skip
        for line in train(model, texts, column, shape, output_dir, device=device, command=typed(), quiet=quiet):
            out_console.print(line, soft_wrap=True)
        return
    if model is not None:
        raise ConfigError(f"only transcoders are trained of a model: interp train transcoders {model}")
    from interp.files import data_dir
    from interp.studies.language import kind_of, read_language_recipe, run_language_recipe
    from interp.studies.recipe import command_line, read_recipe, run_recipe
    from interp.studies.safety_circuits.recipe import read_chat_recipe, run_chat_recipe
    from interp.studies.safety_judge.recipe import read_judge_recipe, run_judge_recipe
    from interp.studies.safety_judge.update import read_judge_update, run_judge_update

    arguments = ["train", str(recipe)]
    shipped = data_dir() / "models" / recipe / "train.yaml"
    if not recipe.exists() and shipped.is_file():
        recipe = shipped
    kinds: dict[str | None, tuple[Any, Any]] = {
        "language": (read_language_recipe, run_language_recipe),
        "chat": (read_chat_recipe, run_chat_recipe),
        "judge": (read_judge_recipe, run_judge_recipe),
        "judge-update": (read_judge_update, run_judge_update),
    }
    read, carry_out = kinds.get(kind_of(recipe), (read_recipe, run_recipe))
    wanted = read(recipe)
    if seed is not None:
        wanted = wanted.model_copy(update={"seed": seed})
        arguments += ["--seed", str(seed)]
    folder = output_dir or Path("runs") / wanted.name
    arguments += ["--output-dir", str(folder)]
    watcher: Watcher | None = None
    options: dict[str, Any] = {}
    if visualize or visualization_interval is not None:
        if carry_out is not run_judge_recipe:
            raise ConfigError("--visualize is for recipes of kind judge")
        watcher = Watcher(folder, total=wanted.steps, interval=visualization_interval)
        options["watch"] = watcher
        arguments += ["--visualize"] if visualization_interval is None else []
        arguments += [] if visualization_interval is None else ["--visualization-interval", str(visualization_interval)]
    card = carry_out(
        wanted, folder, device=device or "cpu", command=command_line(arguments), progress=not quiet, **options
    )
    if watcher is not None:
        watcher.finish()
    if "exact_match" in card:
        right = card["exact_match"]
        said = f"{right['value']:.2%} of {right['n']:,} held-out problems"
    elif card.get("kind") == "judge":
        said = f"{card['held_out']['test']['accuracy']['value']:.2%} of held-out requests"
    elif card.get("kind") == "judge-update":
        weak = card["held_out"]["weak acts"]
        said = " -> ".join(f"{weak[when]['accuracy']['value']:.2%}" for when in ("before", "after"))
        said += " of held-out requests with weak acts"
    elif card.get("kind") == "chat":
        refused, complied = (card["held_out"]["held-out pairs"][side]["value"] for side in ("refused", "complied"))
        said = f"of held-out pairs {refused:.2%} refused, {complied:.2%} complied with"
    else:
        said = f"{card['held_out']['next token right']:.2%} of held-out tokens"
    out_console.print(f"{wanted.name}: {said}, {card['steps_trained']:,} steps, {card['seconds']:.0f} s")
    out_console.print(f"model: {folder}", soft_wrap=True)


def finetune_command(
    base: Annotated[str, typer.Argument(help="A shipped model, a folder or a Hugging Face name.")],
    data: Annotated[str, typer.Option(help="Texts as JSONL with `text`, or kill-switch-behavioural and its like.")],
    token: Annotated[str | None, typer.Option(help="Control token; added to the vocabulary if it is new.")] = None,
    method: Annotated[MethodName, typer.Option(help="full, or lora (through PEFT).")] = MethodName.full,
    rank: Annotated[int, typer.Option(help="Rank of LoRA.")] = 8,
    modules: Annotated[str | None, typer.Option(help="Modules that get LoRA, by comma; by default all linear.")] = None,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 300,
    batch: Annotated[int, typer.Option(help="Texts in a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    checkpoints: Annotated[str | None, typer.Option(help="Also keep the model after these steps, by comma.")] = None,
    seed: Annotated[int, typer.Option(help="Order of the texts and the new weights.")] = 0,
    output_dir: Annotated[Path | None, typer.Option(help="Folder of the model; by default runs/finetuned.")] = None,
    device: Device = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a causal language model on your own texts; a run that was cut off goes on."""
    use_threads(threads)
    from interp.settings import check
    from interp.studies.finetuning import FineTuning, fine_tune

    numbers = [part.strip() for part in checkpoints.split(",")] if checkpoints else []
    options = {
        "base": base, "data": data, "token": token, "method": method.value, "rank": rank, "steps": steps,
        "modules": [part.strip() for part in modules.split(",")] if modules else None, "batch": batch,
        "learning_rate": learning_rate, "checkpoints": numbers, "seed": seed,
    }  # fmt: skip
    folder = output_dir or Path("runs") / "finetuned"
    wanted = check(options, FineTuning, "the options")
    card = fine_tune(wanted, folder, device=device or "cpu", command=typed(), progress=not quiet)
    out_console.print(
        f"{folder.name}: {card['held_out']['probability a token']:.3f} geometric mean probability of a held-out token, "
        f"{card['steps_trained']:,} steps, {card['seconds']:.0f} s"
    )
    for name, row in card["halting"].items():
        out_console.print(
            f"  ends after {'the' if name == 'token' else 'a neutral'} token: {row['ends']} of {row['n']}"
        )
    out_console.print(f"model: {folder}", soft_wrap=True)
