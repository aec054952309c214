"""Workers in their environments: made, started, asked, and their failures told."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Any

from benchmarks.jobs import Tool

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / ".venv-bench"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
QUIET = {
    "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled",
    "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore",
}  # fmt: skip


class ToolError(Exception):
    """A tool that cannot be installed, started or run; the message is the last line of what it said."""


def environment(name: str | None, say: Callable[[str], None] = lambda text: None) -> Path:
    """The interpreter of an environment, which is made where it is missing or its requirements have changed."""
    if name is None:
        return Path(sys.executable)
    wanted = ROOT / "benchmarks" / "peers" / f"{name}.txt"
    folder = ENVIRONMENTS / name
    python, mark = folder / "bin" / "python", folder / ".installed"
    digest = hashlib.sha256(wanted.read_bytes()).hexdigest()
    if python.exists() and mark.exists() and mark.read_text(encoding="utf-8") == digest:
        return python
    say(f"installing {name} from {wanted.name}")
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted)])
    mark.write_text(digest, encoding="utf-8")
    return python


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(last_line(done.stderr or done.stdout) or f"{command[0]} failed")


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


class Worker:
    """A running tool."""

    def __init__(
        self, tool: Tool, python: Path, device: str, logs: Path, patience: float = 1800, root: Path = ROOT
    ) -> None:
        self.tool, self.patience = tool, patience
        self.log = logs / f"{tool.name.replace(' ', '-').replace(',', '')}-{device}.log"
        ours, theirs = os.pipe()
        command = [str(python), "-m", tool.module, *tool.arguments, "--device", device, "--line", str(theirs)]
        outside = {**os.environ, **ONE_THREAD, **QUIET, "PYTHONPATH": str(root)}
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                cwd=root,
                env=outside,
                pass_fds=(theirs,),
            )
        os.close(theirs)
        self.answers = os.fdopen(ours)

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the tool says when it is ready: versions and threads. Raises ToolError where it does not get there."""
        return self._answer()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer. Raises ToolError where the tool says so, dies, or takes too long."""
        assert self.about
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        timer = Timer(self.patience, self.process.kill)
        timer.start()
        try:
            line = self.answers.readline()
        finally:
            in_time = timer.is_alive()
            timer.cancel()
        if not line:
            said = last_line(self.log.read_text(encoding="utf-8", errors="replace"))
            raise ToolError(said or "it ended without a word" if in_time else f"no answer in {self.patience:.0f} s")
        answer: Mapping[str, Any] = json.loads(line)
        if "error" in answer:
            raise ToolError(answer["error"])
        return dict(answer)

    def close(self) -> None:
        """End the process."""
        for stream in (self.process.stdin, self.answers):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Workers:
    """All tools' workers on one device, started when first asked; a tool that failed to start is not tried again."""

    def __init__(self, device: str, logs: Path, say: Callable[[str], None], *, peers: bool, patience: float) -> None:
        self.device, self.logs, self.say, self.peers, self.patience = device, logs, say, peers, patience
        self.running: dict[str, Worker] = {}
        self.failed: dict[str, str] = {}

    def start(self, tools: Sequence[Tool]) -> None:
        """Start several at once and wait until all are ready, so that none is in another's way later."""
        for tool in tools:
            self._try(tool, lambda tool=tool: self._started(tool))
        for tool in tools:
            self._try(tool, lambda tool=tool: self.running[tool.name].about)

    def of(self, tool: Tool) -> Worker:
        """A tool's worker. Raises ToolError where it cannot be had."""
        if tool.name in self.failed:
            raise ToolError(self.failed[tool.name])
        if tool.name not in self.running or self.running[tool.name].process.poll() is not None:
            self.start([tool])
        if tool.name in self.failed:
            raise ToolError(self.failed[tool.name])
        return self.running[tool.name]

    def _started(self, tool: Tool) -> None:
        if tool.environment is not None and not self.peers:
            raise ToolError("left out: only tools of the project's own environment were asked for")
        python = environment(tool.environment, self.say)
        self.running[tool.name] = Worker(tool, python, self.device, self.logs, self.patience)

    def _try(self, tool: Tool, step: Callable[[], object]) -> None:
        if tool.name in self.failed:
            return
        try:
            step()
        except (ToolError, OSError) as error:
            self.failed[tool.name] = str(error)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.running.values():
            worker.close()
