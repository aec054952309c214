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
    study: Annotated[str, typer.Argument(help="Name of the study; `interp list` shows them.")],
    out: Out = None,
    config: Config = None,
    device: Device = None,
    threads: Threads = None,
    jobs: Jobs = None,
    png: Png = True,
    quiet: Quiet = False,
) -> None:
    """Run a whole study on the shipped models and write its page."""
    _threads(threads)
    from interp.studies.catalogue import study as make

    settings = _settings(config)
    build = partial(make, study, settings, device=device, command=_typed())
    _finish(build, out or Path("reports") / study, png, quiet, jobs)


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
    recipe: Annotated[Path, typer.Argument(help="A recipe as YAML, for instance data/models/NAME/train.yaml.")],
    output_dir: Annotated[Path | None, typer.Option(help="Folder of the model; by default runs/NAME.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's seed.")] = None,
    device: Device = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Train a small model; a run that was cut off goes on from its last checkpoint."""
    _threads(threads)
    from interp.studies.recipe import command_line, read_recipe, run_recipe

    wanted = read_recipe(recipe)
    arguments = ["train", str(recipe)]
    if seed is not None:
        wanted = wanted.model_copy(update={"seed": seed})
        arguments += ["--seed", str(seed)]
    folder = output_dir or Path("runs") / wanted.name
    arguments += ["--output-dir", str(folder)]
    card = run_recipe(wanted, folder, device=device or "cpu", command=command_line(arguments), progress=not quiet)
    right = card["exact_match"]
    out_console.print(
        f"{wanted.name}: {right['value']:.2%} of {right['n']:,} held-out problems, {card['steps_trained']:,} steps, "
        f"{card['seconds']:.0f} s"
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
    seed: Annotated[int, typer.Option(help="Same seed, same file.")] = 0,
) -> None:
    """Arithmetic problems with roles, carries and sub-tasks, or minimal pairs of them."""
    from interp.datasets.arithmetic_files import write_arithmetic

    n = write_arithmetic(
        out, task=task.value, digits=digits, count=count, steps=steps, carries=carries.value, split=split.value,
        pairs=pairs.value if pairs else None, seed=seed,
    )  # fmt: skip
    out_console.print(f"{n:,} rows: {out}", soft_wrap=True)


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
        chosen = [name.strip() for name in only.split(",") if name.strip()]
        if not chosen:
            raise ConfigError(f"--only names no analysis; choose from {', '.join(ANALYSES)}")
        for name in chosen:
            if name not in ANALYSES:
                raise ConfigError(f"there is no analysis {name!r}; choose from {', '.join(ANALYSES)}")
        changes["analyses"] = {name: name in chosen for name in ANALYSES}
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
