"""Peak memory of a sweep, in a fresh process: how it stands to the model and the budget that the sweep was given.

python -m benchmarks.memory inputs.safetensors --job residual --pairs 4 --tokens 16 --memory 268435456
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.inputs import Case, Inputs
from benchmarks.jobs import GPT2, MIDDLE, SMALL, Shape
from benchmarks.workers import ONE_THREAD, QUIET, ROOT, ToolError, last_line

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEGABYTE = 1 << 20
JOBS = ("residual", "heads", "ablation")
TOLERANCE = 1.1


def points(quick: bool) -> list[tuple[Shape, str, Case, int]]:
    """Model, job, case and budget of each measurement."""
    if quick:
        return [(SMALL, "residual", Case(pairs=16, tokens=64), 32 * MEGABYTE)]
    found = [(GPT2, job, Case(), budget * MEGABYTE) for job in JOBS for budget in (64, 256, 1024)]
    found += [(MIDDLE, "residual", Case(pairs=16, tokens=64), budget * MEGABYTE) for budget in (64, 256, 1024)]
    return found


def measure(path: Path, shape: Shape, job: str, case: Case, budget: int) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", str(path), "--job", job, "--memory", str(budget)]
    command += ["--pairs", str(case.pairs), "--tokens", str(case.tokens)]
    outside = {**os.environ, **ONE_THREAD, **QUIET, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=outside)
    about = {"model": shape.name, "job": job, "pairs": case.pairs, "tokens": case.tokens, "budget": budget}
    if done.returncode:
        return {**about, "error": last_line(done.stderr)}
    return {**about, **json.loads(done.stdout.splitlines()[-1])}


def _status(name: str) -> int:
    """A size from the process's status, in bytes."""
    line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Measure in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--job", choices=JOBS, default="residual")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--memory", type=int, required=True)
    given = parser.parse_args()
    if not CLEAR.exists():
        raise ToolError("peak memory is measured on Linux alone")
    import torch

    from benchmarks import ours

    torch.set_num_threads(1)
    inputs = Inputs(given.inputs)
    model = ours.load(inputs)
    ours.swept(model, inputs, given.job, Case(2, 4), given.memory)  # what the first run makes and keeps
    before = _status("VmRSS")
    CLEAR.write_text("5", encoding="utf-8")  # the peak from here on
    ours.swept(model, inputs, given.job, Case(given.pairs, given.tokens), given.memory)
    peak = _status("VmHWM")
    share = peak / (before + given.memory)
    print(json.dumps({"process_before": before, "peak": peak, "above": peak - before, "share": share}))


if __name__ == "__main__":
    main()
