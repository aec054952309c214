"""The options of the safety-judge study, and its stages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from interp.errors import ConfigError


def judge_study(
    config: Path | None,
    only: str | None,
    device: str | None,
    out: Path,
    quiet: bool,
    *,
    command: str,
    stages: str | None,
    prompts: str | None,
    columns: str | None,
) -> Callable[[], Any] | None:
    """Carry out the stages that were asked for; returns what builds the report, or None where it was not."""
    from interp.cli.monitor import Watcher
    from interp.cli.options import named
    from interp.settings import check, read_yaml
    from interp.studies.safety_judge.settings import ANALYSES, JudgeSettings
    from interp.studies.safety_judge.stages import known_stages, models_in, run_stages
    from interp.studies.safety_judge.study import safety_judge

    settings = read_yaml(config, JudgeSettings) if config else JudgeSettings()
    changes: dict[str, Any] = {}
    if only:
        changes["analyses"] = named(only, ANALYSES)
    if columns is not None and prompts is None:
        raise ConfigError("--columns names the columns of --prompts; give both")
    if prompts is not None:
        changes["labelled"] = {"path": prompts, **_columns(columns)}
    settings = check({**settings.model_dump(), **changes}, JudgeSettings, "the options")
    if stages is None:
        return partial(safety_judge, settings, device=device, command=command)
    wanted = known_stages(stages)
    console = Console()
    run_stages(
        wanted, out, settings, device=device, command=command, progress=not quiet,
        watch=lambda folder, total: Watcher(folder, total=total, interval=None),
        said=lambda line: console.print(escape(line), soft_wrap=True, highlight=False),
    )  # fmt: skip
    if "report" not in wanted:
        return None
    return partial(safety_judge, settings, device=device, command=command, models=models_in(out))


def _columns(said: str | None) -> dict[str, str]:
    if said is None:
        return {}
    names = [name.strip() for name in said.split(",")]
    if len(names) not in (2, 3) or not all(names):
        raise ConfigError(f"--columns is TEXT,LABEL or TEXT,LABEL,CATEGORY, not {said!r}")
    return dict(zip(("text", "label", "category"), names, strict=False))
