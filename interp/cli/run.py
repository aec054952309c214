"""`interp run`: whole studies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.analyze import settings_of
from interp.cli.finish import finish
from interp.cli.options import Config, Device, Jobs, Out, Png, Quiet, Threads, named, out_console, typed, use_threads
from interp.errors import ConfigError


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
    use_threads(threads)
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
            finish(build, here, png, quiet, jobs)
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

        return partial(arithmetic, settings_of(config), device=device, command=typed())
    if name == "safety-judge":
        from interp.cli.judge_study import judge_study

        return judge_study(config, only, device, out, quiet, command=typed(), **options)
    if name == "safety-circuits":
        from interp.cli.circuit_study import circuit_study

        return circuit_study(config, device, out, options, command=typed())
    from interp.settings import check, read_yaml
    from interp.studies.kill_switch.settings import ANALYSES, KillSwitchSettings
    from interp.studies.kill_switch.study import kill_switch

    settings = read_yaml(config, KillSwitchSettings) if config else KillSwitchSettings()
    if only:
        changes = {"analyses": named(only, ANALYSES)}
        settings = check({**settings.model_dump(), **changes}, KillSwitchSettings, "the options")
    return partial(kill_switch, settings, device=device, command=typed(), **options)
