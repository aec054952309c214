"""The same records after the fact, from checkpoints of a training that nobody watched."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from interp.analyses.token_attribution import Method
from interp.errors import ConfigError, ModelError
from interp.files import weights_mark
from interp.models.judge import Judge, load_judge
from interp.models.load import info, untrained
from interp.monitoring.probe import Probe
from interp.monitoring.records import RecordWriter
from interp.monitoring.snapshot import Questions, snapshot


def step_of(folder: Path | str) -> int | None:
    """The step in a checkpoint's name (`step-00050`, `checkpoint-500`, `epoch_3`); None where there is none."""
    found = re.search(r"(?:step|checkpoint|epoch|ckpt)[-_=]?(\d+)$", Path(folder).name)
    return int(found.group(1)) if found else None


def in_order(folders: Sequence[Path | str] | Mapping[int, Path]) -> list[tuple[int, Path]]:
    """Folders with their steps, earliest first; in the order given (1, 2, ...) where not every name tells its step."""
    if not folders:
        raise ConfigError("there is no checkpoint to look at; give at least one folder")
    if isinstance(folders, Mapping):
        return sorted(folders.items())
    steps = [step_of(folder) for folder in folders]
    told = [step for step in steps if step is not None]
    if len(told) < len(steps):
        return [(i, Path(folder)) for i, folder in enumerate(folders, 1)]
    twice = next((step for step in told if told.count(step) > 1), None)
    if twice is not None:
        raise ConfigError(f"two checkpoints are of step {twice}; give each step once")
    return sorted(zip(told, map(Path, folders), strict=True))


def record_checkpoints(
    folders: Sequence[Path | str] | Mapping[int, Path],
    probe: Probe,
    *,
    out: Path | str,
    template: str | None = None,
    safe: str | None = None,
    unsafe: str | None = None,
    attribution: Method = "leave one out",
    heads: int = 24,
    device: str | None = None,
    progress: bool = False,
) -> None:
    """Take a snapshot of every checkpoint that is not recorded yet; `folders` may also be given by their steps.

    Where the first is later than step 0, a freshly drawn model of the same architecture stands there: what random
    weights do is the baseline for all that was learned.
    """
    options: dict[str, Any] = {"template": template, "safe": safe, "unsafe": unsafe, "device": device}
    ordered = in_order(folders)
    judge = load_judge(ordered[0][1], **options)
    asked = Questions.of(judge, probe, method=attribution, heads=heads)
    vocabulary = info(judge.model).tokenizer
    tokenizer: Any = judge.model.tokenizer
    drawn = ordered[0][0] > 0
    about = {
        "template": judge.template, "safe": str(tokenizer.decode([judge.safe])),
        "unsafe": str(tokenizer.decode([judge.unsafe])), "layers": int(judge.model.cfg.n_layers),
        "heads": int(judge.model.cfg.n_heads), "parameters": info(judge.model).n_parameters,
        "model": info(judge.model).architecture, "method": attribution,
        "neutral": str(tokenizer.decode([asked.neutral])),
        "head_texts": 0 if asked.heads is None else len(asked.heads), "every": "checkpoint", "total": ordered[-1][0],
        "max_overhead": None, "drawn": drawn,
    }  # fmt: skip
    writer = RecordWriter(out, probe, about, asked.tokens(judge))
    known = writer.steps
    plan: list[tuple[int, Path | None]] = [(0, None), *ordered] if drawn else [*ordered]
    for step, folder in plan:
        if step in known:
            writer.check(step, _mark(folder))
    plan = [(step, folder) for step, folder in plan if step not in known]
    for step, folder in track(plan, description="checkpoints", transient=True) if progress else plan:
        if folder is None:
            one = Judge(next(iter(untrained(judge.model, [0]))), judge.template, judge.safe, judge.unsafe)
        else:
            one = judge if folder == ordered[0][1] else load_judge(folder, **options)
            if info(one.model).tokenizer != vocabulary:
                raise ModelError(f"{folder} has another vocabulary than {ordered[0][1]}: they are not of one training")
        with torch.random.fork_rng(devices=[]):
            writer.append(
                snapshot(one, asked), step=step, seconds=float("nan"), training=float("nan"), mark=_mark(folder)
            )


def _mark(folder: Path | None) -> str:
    """What tells the weights of a checkpoint apart from others; those freshly drawn are always the same."""
    return "drawn" if folder is None else weights_mark(folder)
