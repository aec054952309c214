"""`interp analyze` and `interp compare`: one model, or two on the same prompts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from interp.cli.finish import finish
from interp.cli.options import (
    Config,
    Device,
    Jobs,
    Out,
    Png,
    Quiet,
    Threads,
    Weights,
    WeightsName,
    named,
    typed,
    use_threads,
)
from interp.errors import ConfigError


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
    use_threads(threads)
    from interp.studies.catalogue import analysis

    settings = _chosen(config, examples, only, weights)
    if everything:
        settings = settings.model_copy(update={"analyses": {}})
    finish(partial(analysis, model, settings, device=device, command=typed()), out, png, quiet)


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
    use_threads(threads)
    from interp.studies.catalogue import comparison

    settings = _chosen(config, examples, only, weights)
    finish(partial(comparison, first, second, settings, device=device, command=typed()), out, png, quiet, jobs)


def settings_of(config: Path | None) -> Any:
    """The settings of the YAML, or the usual ones."""
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
    return check({**settings_of(config).model_dump(), **changes}, Settings, "the options")
