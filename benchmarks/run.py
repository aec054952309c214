"""`make bench`: every job on every tool, growth, memory, and the page over them.

python -m benchmarks.run --quick            # small models, tools of this environment alone
python -m benchmarks.run --jobs residual heads --models "GPT-2 small" --runs 3
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.workers import ONE_THREAD, QUIET, Workers

os.environ.update({**ONE_THREAD, **QUIET})  # before torch is loaded

import torch
from rich.console import Console

from benchmarks import growth, jobs, memory, report
from benchmarks.inputs import Shape, write
from benchmarks.jobs import GENERIC, JOBS, OURS, SHAPES, TOOLS, Task, Tool
from benchmarks.measure import Settings, measure
from benchmarks.rate import names
from interp.files import make_folder, write_json
from interp.results import provenance

GROWING = ("interp", "TransformerLens")
PARTS = ("jobs", "growth", "memory")
ON_PROCESSOR = ("probing",)
"""Jobs that run there whatever the device."""


class Bench:
    """A run of the benchmarks: what it found so far is always on disk."""

    def __init__(self, folder: Path, out: Path, settings: Settings, say: Callable[[str], None], about: dict[str, Any]):
        self.folder, self.out, self.settings, self.say = folder, out, settings, say
        self.found: dict[str, Any] = {**about, "tools": {}, "jobs": [], "growth": [], "memory": []}

    def inputs(self, shape: Shape) -> Path:
        """The file of a model, drawn where it is not there yet."""
        path = self.folder / f"{shape.name.replace(' ', '-')}.safetensors"
        if not path.exists():
            self.say(f"drawing {shape.name}")
            write(path, shape)
        return path

    def save(self) -> None:
        """Write what there is."""
        write_json(self.out / "latest.json", self.found)

    def run_jobs(self, tasks: Iterable[Task], tools: Sequence[Tool], workers: Workers) -> None:
        """Every task, in the order of models, so that each worker reads a model once."""
        for task in tasks:
            self.found["jobs"].append(measure(task, self.inputs(task.shape), tools, workers, self.settings, self.say))
            self._note(workers)

    def run_growth(self, lines: Sequence[growth.Line], tools: Sequence[Tool], workers: Workers) -> None:
        """Each line point by point, with fewer rounds."""
        settings = replace(self.settings, runs=min(3, self.settings.runs), longest=self.settings.longest / 4)
        for line in lines:
            points = []
            for value in line.values:
                task = line.task(value)
                self.say(f"growth: {line.name} {value}")
                record = measure(task, self.inputs(task.shape), tools, workers, settings, lambda text: None)
                points.append({"value": value, "record": record})
            self.found["growth"].append({**growth.slopes(line.name, points), "points": points})
            self._note(workers)

    def run_memory(self, points: Sequence[tuple[Shape, str, Any, int]]) -> None:
        """Each measurement in a process of its own."""
        for shape, job, case, budget in points:
            self.say(f"memory: {job}, {shape.name}, budget {budget >> 20} MB")
            self.found["memory"].append(memory.measure(self.inputs(shape), shape, job, case, budget))
            self.save()

    def _note(self, workers: Workers) -> None:
        for name, worker in workers.running.items():
            self.found["tools"].setdefault(name, {})[workers.device] = worker.about
        for name, error in workers.failed.items():
            self.found["tools"].setdefault(name, {})[workers.device] = {"error": error}
        self.save()


def devices() -> list[str]:
    """The processor, and a GPU where there is one."""
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small models, tools of this environment alone")
    parser.add_argument("--jobs", nargs="*", choices=JOBS, default=list(JOBS))
    parser.add_argument("--models", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tools", nargs="*", choices=[tool.name for tool in TOOLS])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--runs", type=int, help="rounds in which every tool runs once (5, quick: 3)")
    parser.add_argument(
        "--longest", type=float, help="seconds above which a loop is timed on some cells (20, quick: 1)"
    )
    parser.add_argument("--patience", type=float, default=1800, help="seconds after which a tool is given up")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    given = parser.parse_args(arguments)
    usual = Settings(runs=3, longest=1.0, shortest=0.1) if given.quick else Settings()
    settings = replace(usual, runs=given.runs or usual.runs, longest=given.longest or usual.longest)
    torch.set_num_threads(1)
    chosen = given.tools or [tool.name for tool in TOOLS if not given.quick or tool.name != GENERIC]
    tools = [tool for tool in TOOLS if tool.name in chosen]
    tasks = [t for t in jobs.tasks(given.quick) if t.job.key in given.jobs and t.shape.name in given.models]
    if not tasks and "jobs" in given.parts:
        parser.error("none of these jobs is run on these models" + (" in the quick form" if given.quick else ""))
    tasks.sort(key=lambda task: list(SHAPES).index(task.shape.name))
    about = {
        "provenance": provenance(),
        "quick": given.quick,
        "settings": {**asdict(settings), "threads": 1},
        "matrix_products": {shape.name: names(shape.width) for shape in SHAPES.values()},
    }
    out = make_folder(given.out)
    console = Console()
    with tempfile.TemporaryDirectory() as folder, console.status("starting") as status:
        bench = Bench(Path(folder), out, settings, status.update, about)
        for device in devices():
            with Workers(
                device, Path(folder), status.update, peers=not given.quick, patience=given.patience
            ) as workers:
                if "jobs" in given.parts:
                    here = [task for task in tasks if device == "cpu" or task.job.key not in ON_PROCESSOR]
                    asked = {task.job.key for task in here}
                    workers.start([tool for tool in tools if asked & set(tool.jobs)])
                    bench.run_jobs(here, tools, workers)
                if "growth" in given.parts:
                    growing = [tool for tool in tools if tool.name in GROWING[: 1 if given.quick else None]]
                    bench.run_growth(growth.lines(given.quick), growing, workers)
        if "memory" in given.parts and OURS in tools:
            bench.run_memory(memory.points(given.quick))
        status.update("drawing")
        bench.save()
        report.write(bench.found, out)
    console.print(report.table(bench.found), markup=False, highlight=False, soft_wrap=True)
    console.print(f"written: {out / 'latest.md'}, {out / 'latest.json'}", markup=False)


if __name__ == "__main__":
    main()
