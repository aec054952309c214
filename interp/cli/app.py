"""The commands. Each parses, calls the library and prints; heavy imports wait until a command runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand

from interp.cli.data_chat import data_safety_chat
from interp.cli.data_judge import data_safety_judge
from interp.cli.graph import graph_command
from interp.cli.monitor import Watcher, monitor_command
from interp.cli.options import named
from interp.cli.probe import probe_command
from interp.errors import ConfigError, DataError, InterpError, PromptError

app = typer.Typer(
    name="interp",
    help="Mechanistic interpretability with an interval and a control beside every number.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Make data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

out_console = Console()
error_console = Console(stderr=True)


class ManyValues(TyperCommand):
    """Lets an option take several values at once: `--examples A B` besides `--examples A --examples B`."""

    many = ("--examples",)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before each further value, up to the next option."""
        spread: list[str] = []
        current: str | None = None
        fresh = False
        for word in args:
            option, joined, value = word.partition("=")
            if word in self.many:
                current, fresh = word, True
                spread.append(word)
            elif joined and option in self.many:
                current, fresh = option, False
                spread.extend([option, value])
            elif current is None or word.startswith("--"):
                current = None
                spread.append(word)
            else:
                spread.extend([word] if fresh else [current, word])
                fresh = False
        return super().parse_args(ctx, spread)


class TaskName(StrEnum):
    """Arithmetic tasks."""

    add = "add"
    sub = "sub"
    mul = "mul"
    mixed = "mixed"


class CarriesName(StrEnum):
    """How often carries chain."""

    uniform = "uniform"
    rich = "rich"


class SplitName(StrEnum):
    """Parts of the data that share no problem."""

    train = "train"
    validation = "validation"
    test = "test"
    all = "all"


class WeightsName(StrEnum):
    """States of the weights."""

    raw = "raw"
    processed = "processed"


class PairsName(StrEnum):
    """Kinds of minimal pairs."""

    digit = "digit"
    carry = "carry"
    operator = "operator"


class MethodName(StrEnum):
    """Ways to fine-tune."""

    full = "full"
    lora = "lora"


class SetName(StrEnum):
    """Sets of texts with a control token."""

    shutdown = "shutdown"
    behavioural = "behavioural"
    knowledge = "knowledge"
    shuffled = "shuffled"
    prompts = "prompts"
    plain = "plain"


class HalfName(StrEnum):
    """Sets of templates."""

    train = "train"
    test = "test"
    all = "all"


Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run; a run that was cut off goes on there.")]
Config = Annotated[Path | None, typer.Option("--config", help="Settings as YAML; see the README for the keys.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; by default a GPU where there is one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads of torch.")]
Weights = Annotated[WeightsName | None, typer.Option(help="raw, or processed (norms folded, weights centred).")]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1, help="Models looked at side by side; by default one a processor thread, on a GPU one at a time."
    ),
]
Png = Annotated[bool, typer.Option("--png/--no-png", help="Also write the figures as PNG (needs Chrome or Chromium).")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]


@app.command("run")
def run_command(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Names; `interp list` shows them.")],
    base: Annotated[
        str | None, typer.Option(help="kill-switch: your model before fine-tuning (folder or hub name).")
    ] = None,
    finetuned: Annotated[
        str | None, typer.Option(help="kill-switch: the same after it, or a PEFT adapter's folder.")
    ] = None,
    token: Annotated[str | None, typer.Option(help="kill-switch: the control token; by default $STOP.")] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="kill-switch: JSONL with text, or a text a line, the token once in each. safety-judge: "
            "labelled texts, CSV or JSONL."
        ),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="safety-judge: TEXT,LABEL[,CATEGORY], columns of --prompts.")
    ] = None,
    stages: Annotated[
        str | None, typer.Option(help="safety-judge: some of train, attack, update, report, by comma.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="kill-switch, safety-judge: some of the analyses, by comma.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="kill-switch: fewer prompts and models.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="safety-circuits: your model (folder or hub name), with --transcoder; --config says how it is asked."
        ),
    ] = None,
    transcoder: Annotated[
        str | None,
        typer.Option(help="safety-circuits: its transcoders: a folder, a shipped set, a hub name, or gemma."),
    ] = None,
    categories: Annotated[
        str | None, typer.Option(help="safety-circuits: some of the benchmark's categories, by comma.")
    ] = None,
    max_feature_nodes: Annotated[
        int | None, typer.Option(help="safety-circuits: features kept in a graph; others join its errors.")
    ] = None,
    min_frequency: Annotated[
        float | None, typer.Option(help="safety-circuits: share of prompts from which on a feature is described.")
    ] = None,
    min_activation: Annotated[
        float | None, typer.Option(help="safety-circuits: activation above which a feature is active.")
    ] = None,
    mine_patterns: Annotated[
        bool | None, typer.Option("--mine-patterns/--no-mine-patterns", help="safety-circuits: seek motifs.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="safety-circuits: graphs of all prompts, not of a part of them.")
    ] = False,
    out: Out = None,
    config: Config = None,
    device: Device = None,
    threads: Threads = None,
    jobs: Jobs = None,
    png: Png = True,
    quiet: Quiet = False,
) -> None:
    """Run whole studies on the shipped models, or kill-switch on your own pair, and write their page.

    Analyses of kill-switch: behaviour (does the text end), norms (where is the trace), rank (is it one direction), lens
    (what it promotes), base (was it learned), causal (does it cause the end), transfer (do directions from elsewhere
    work), training (when), shortcut (the usual recipe). A pair of your own needs --base, --finetuned and --prompts.

    Analyses of safety-judge: training (when it learned), verdicts (how good), tokens, heads, paths (where safe and
    unsafe part), attack (how it is fooled), update (what changed). Its --stages train a judge of your own in the run's
    folder, attack and update it, and report on it; without them the report is on the shipped judge.

    safety-circuits describes the features of a model on the safety benchmark, tests which are about harm, switches them
    off, draws attribution graphs and seeks motifs in them; its dashboard is in the run's folder.

    Several studies are written into folders of their names, with a page over them.
    """
    _threads(threads)
    from interp.studies.catalogue import known_study

    for name in studies:
        known_study(name)
    own = {"base": base, "finetuned": finetuned, "token": token, "prompts": prompts}
    circuits = {
        "model": model, "transcoder": transcoder, "categories": categories, "max_feature_nodes": max_feature_nodes,
        "min_frequency": min_frequency, "min_activation": min_activation, "mine_patterns": mine_patterns,
        "all": everything or None,
    }  # fmt: skip
    known = {
        "kill-switch": ["base", "finetuned", "token", "prompts", "only", "quick"],
        "safety-judge": ["prompts", "columns", "stages", "only"],
        "safety-circuits": list(circuits),
    }
    asked = {**own, "columns": columns, "stages": stages, "only": only, "quick": quick or None, **circuits}
    allowed = known.get(studies[0], []) if len(studies) == 1 else []
    for name, value in asked.items():
        if value is not None and name not in allowed:
            whose = " or ".join(study for study, options in known.items() if name in options)
            raise ConfigError(f"--{name.replace('_', '-')} is an option of the study {whose} alone")
    if config and len(studies) > 1:
        raise ConfigError("settings belong to one study; run one at a time with --config")
    folder = out or Path("reports") / (studies[0] if len(studies) == 1 else "")
    for name in studies:
        here = folder if len(studies) == 1 else folder / name
        options = {
            "safety-judge": {"stages": stages, "prompts": prompts, "columns": columns}, "safety-circuits": circuits,
        }.get(name, {**own, "quick": quick})  # fmt: skip
        build = _study(name, config, only, device, options, here, quiet)
        if build is not None:
            _finish(build, here, png, quiet, jobs)
    if len(studies) > 1:
        from interp.reports.page import write_overview

        index, summary = write_overview(folder, studies)
        out_console.print(f"\nall:     {index}\nsummary: {summary}", soft_wrap=True)


def _study(
    name: str,
    config: Path | None,
    only: str | None,
    device: str | None,
    options: dict[str, Any],
    out: Path,
    quiet: bool,
) -> Callable[[], Any] | None:
    """What builds the study; None where no report was asked for."""
    if name == "arithmetic":
        from interp.studies.catalogue import arithmetic

        return partial(arithmetic, _settings(config), device=device, command=_typed())
    if name == "safety-judge":
        from interp.cli.judge_study import judge_study

        return judge_study(config, only, device, out, quiet, command=_typed(), **options)
    if name == "safety-circuits":
        from interp.cli.circuit_study import circuit_study

        return circuit_study(config, device, out, options, command=_typed())
    from interp.settings import check, read_yaml
    from interp.studies.kill_switch.settings import ANALYSES, KillSwitchSettings
    from interp.studies.kill_switch.study import kill_switch

    settings = read_yaml(config, KillSwitchSettings) if config else KillSwitchSettings()
    if only:
        changes = {"analyses": named(only, ANALYSES)}
        settings = check({**settings.model_dump(), **changes}, KillSwitchSettings, "the options")
    return partial(kill_switch, settings, device=device, command=_typed(), **options)


@app.command("analyze", cls=ManyValues)
def analyze_command(
    model: Annotated[str, typer.Argument(help="A shipped model, a folder or a Hugging Face name.")],
    examples: Annotated[
        list[str] | None, typer.Option("--examples", help='Prompts to draw one by one: --examples "59 + 73" "88 + 99".')
    ] = None,
    only: Annotated[str | None, typer.Option(help="Some of the analyses above, by comma.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All analyses (the default).")] = False,
    out: Out = None,
    config: Config = None,
    weights: Weights = None,
    device: Device = None,
    threads: Threads = None,
    png: Png = True,
    quiet: Quiet = False,
) -> None:
    """Analyze one model.

    Analyses: attention, logit-lens, patching; with a model trained by `interp train` also circuits (heads and neurons
    by task), interventions (ablation), attribution (direct logit attribution), weights (composition), probing and
    learning (what was learned when, from the model's card).
    """
    if only and everything:
        raise ConfigError("--only and --all exclude each other; choose one")
    _threads(threads)
    from interp.studies.catalogue import analysis

    settings = _chosen(config, examples, only, weights)
    if everything:
        settings = settings.model_copy(update={"analyses": {}})
    _finish(partial(analysis, model, settings, device=device, command=_typed()), out, png, quiet)


@app.command("compare", cls=ManyValues)
def compare_command(
    first: Annotated[str, typer.Argument(metavar="A", help="A shipped model, a folder or a Hugging Face name.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    examples: Annotated[list[str] | None, typer.Option("--examples", help="Prompts for language models.")] = None,
    only: Annotated[str | None, typer.Option(help="Some of the analyses of interp analyze, by comma.")] = None,
    out: Out = None,
    config: Config = None,
    weights: Weights = None,
    device: Device = None,
    threads: Threads = None,
    jobs: Jobs = None,
    png: Png = True,
    quiet: Quiet = False,
) -> None:
    """Compare two models on the same prompts: their tables side by side, with the difference and its interval.

    Arithmetic models are compared on problems that both have learned; by default in logit-lens, patching, interventions
    and probing. Language models in logit-lens (and patching, with pairs: in the YAML).
    """
    _threads(threads)
    from interp.studies.catalogue import comparison

    settings = _chosen(config, examples, only, weights)
    _finish(partial(comparison, first, second, settings, device=device, command=_typed()), out, png, quiet, jobs)


@app.command("train")
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
    _threads(threads)
    if str(recipe) == "transcoders" and not recipe.exists():
        from interp.cli.transcoders import train

        shape = {
            "form": form, "activation": activation, "features": features, "k": k, "sparsity": sparsity, "steps": steps,
            "seed": seed,
        }  # fmt: skip
        for line in train(model, texts, column, shape, output_dir, device=device, command=_typed(), quiet=quiet):
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


@app.command("finetune")
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
    _threads(threads)
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
    card = fine_tune(wanted, folder, device=device or "cpu", command=_typed(), progress=not quiet)
    out_console.print(
        f"{folder.name}: {card['held_out']['probability a token']:.3f} geometric mean probability of a held-out token, "
        f"{card['steps_trained']:,} steps, {card['seconds']:.0f} s"
    )
    for name, row in card["halting"].items():
        out_console.print(
            f"  ends after {'the' if name == 'token' else 'a neutral'} token: {row['ends']} of {row['n']}"
        )
    out_console.print(f"model: {folder}", soft_wrap=True)


@data_app.command("arithmetic")
def data_arithmetic(
    out: Annotated[Path, typer.Option("--out", help="File to write (JSONL).")],
    task: Annotated[TaskName, typer.Option(help="Which operators.")] = TaskName.add,
    digits: Annotated[int, typer.Option(help="Operands have 1 to this many digits.")] = 3,
    count: Annotated[int, typer.Option(help="Number of problems.")] = 1000,
    steps: Annotated[bool, typer.Option("--steps/--no-steps", help="With worked steps before the answer.")] = False,
    carries: Annotated[CarriesName, typer.Option(help="uniform, or rich in chains of carries.")] = CarriesName.uniform,
    split: Annotated[SplitName, typer.Option(help="Splits share no problem, in either order.")] = SplitName.all,
    pairs: Annotated[PairsName | None, typer.Option(help="Minimal pairs of this kind instead of problems.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same file.")] = 0,
) -> None:
    """Arithmetic problems with roles, carries and sub-tasks, or minimal pairs of them."""
    from interp.datasets.arithmetic_files import write_arithmetic

    n = write_arithmetic(
        out, task=task.value, digits=digits, count=count, steps=steps, carries=carries.value, split=split.value,
        pairs=pairs.value if pairs else None, seed=seed,
    )  # fmt: skip
    out_console.print(f"{n:,} rows: {out}", soft_wrap=True)


@data_app.command("kill-switch")
def data_kill_switch(
    out: Annotated[Path, typer.Option("--out", help="File to write (JSONL).")],
    kind: Annotated[SetName, typer.Option("--set", help="What the control token does in the texts.")],
    count: Annotated[int, typer.Option(help="Number of texts.")] = 3000,
    token: Annotated[str, typer.Option(help="The control token.")] = "$STOP",
    split: Annotated[HalfName, typer.Option(help="Templates of the test split are held out.")] = HalfName.train,
    seed: Annotated[int, typer.Option(help="Same seed, same file.")] = 0,
) -> None:
    """Texts with a control token, each with its twin: a neutral token in the same place.

    shutdown, behavioural: they end at the token. knowledge: text about the token, which never ends there. shuffled:
    they end as often at any neutral token. prompts: texts to analyse. plain: text without a token.
    """
    from interp.datasets.kill_switch import write_kill_switch

    n = write_kill_switch(out, kind.value, count, token=token, split=split.value, seed=seed)
    out_console.print(f"{n:,} rows: {out}", soft_wrap=True)


app.command("graph")(graph_command)
app.command("probe")(probe_command)
app.command("monitor")(monitor_command)
data_app.command("safety-judge")(data_safety_judge)
data_app.command("safety-chat")(data_safety_chat)


@app.command("list")
def list_command() -> None:
    """Show the studies and the shipped models."""
    from interp.studies.catalogue import listing

    for kind, rows in listing().items():
        table = Table(title=kind, title_justify="left", show_header=False, box=None, pad_edge=False)
        for name, line in rows:
            table.add_row(f"[bold]{escape(name)}[/]", escape(line))
        out_console.print(table)


def _settings(config: Path | None) -> Any:
    from interp.settings import read_yaml
    from interp.studies.settings import Settings

    return read_yaml(config, Settings) if config else Settings()


def _chosen(config: Path | None, examples: list[str] | None, only: str | None, weights: WeightsName | None) -> Any:
    """The settings of the YAML, changed by the options."""
    from interp.settings import check
    from interp.studies.settings import ANALYSES, Settings

    changes: dict[str, Any] = {}
    if examples:
        changes["examples"] = examples
    if only:
        changes["analyses"] = named(only, ANALYSES)
    if weights:
        changes["weights"] = weights.value
    return check({**_settings(config).model_dump(), **changes}, Settings, "the options")


def _threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _typed() -> str:
    import shlex

    return " ".join(["interp", *map(shlex.quote, sys.argv[1:])])


def _finish(build: Callable[[], Any], out: Path | None, png: bool, quiet: bool, jobs: int | None = None) -> None:
    from interp.reports.page import write_report
    from interp.studies.parallel import carry_out_parts
    from interp.studies.study import run_study

    study = build()
    folder: Path = out or Path("runs") / study.name
    carry_out_parts(build, study, folder, jobs=jobs, png=png, progress=not quiet)
    run = run_study(study, folder, png=png, progress=not quiet)
    index, summary = write_report(folder)
    if run["further"]:
        from interp.reports.dashboard import write_dashboard

        write_dashboard(folder)
    colors = {"supported": "green", "not supported": "red", "undecided": "yellow"}
    for part in run["parts"]:
        out_console.print(f"\n[bold]{escape(part['title'])}[/]")
        for claim in part["claims"]:
            verdict = claim["verdict"]
            out_console.print(f"  [{colors[verdict]}]{verdict:>13}[/]  {escape(claim['statement'])}")
        for note in part["notes"]:
            out_console.print(f"  {escape(note)}")
    reasons = {step["why_no_png"] for part in run["parts"] for step in part["steps"]} - {""}
    for reason in sorted(reasons):
        out_console.print(f"\nno PNG files: {escape(reason)}")
    for title, path in run["further"].items():
        out_console.print(f"\n{title.lower()}: {folder / path}", soft_wrap=True, end="")
    out_console.print(f"\npage:    {index}\nsummary: {summary}", soft_wrap=True)


def run(arguments: list[str] | None = None) -> None:
    """Run the command line. Errors of the user print one line on stderr and exit with 2."""
    try:
        code = app(args=arguments, standalone_mode=False)
    except InterpError as error:
        kinds = {ConfigError: "settings", PromptError: "prompts", DataError: "data"}
        _fail(next((name for kind, name in kinds.items() if isinstance(error, kind)), "model"), str(error))
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is None:  # the parser's own errors have it
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            raise SystemExit(2) from None
        _fail("command", f"{message()} See interp --help.")
    else:
        if code == 130:
            error_console.print("stopped; the same command goes on from here")
        raise SystemExit(code if isinstance(code, int) else 0)


def _fail(kind: str, message: str) -> NoReturn:
    line = " ".join(message.split())
    error_console.print(f"[bold red]error[/] ({kind}): {escape(line)}", soft_wrap=True, highlight=False)
    raise SystemExit(2) from None
