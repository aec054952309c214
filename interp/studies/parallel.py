"""The parts of a study side by side, each in a process of its own with its share of the threads.

Parts know nothing of each other until they are joined, and what they write is found again by `run_study`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from interp.errors import ConfigError
from interp.figures.files import PictureWriter
from interp.studies.study import Part, Study, bar_over, carry_out, is_done, open_folder

Build = Callable[[], Study]
"""Makes the study anew in another process; picklable, as a `functools.partial` of a function and its options is."""

_LOOK = 0.2
"""Seconds between looks at the processes."""


def carry_out_parts(
    build: Build, study: Study, out: Path | str, *, jobs: int | None = None, png: bool = True, progress: bool = True
) -> None:
    """Carry out a study's parts in `jobs` processes; `run_study` then finds them done and joins them.

    By default as many as there are threads, or one where a model is on a GPU, which the parts would only share.
    Call it below `if __name__ == "__main__":`, as all that starts processes. Raises ConfigError where one dies.
    """
    numbers = [i for i, part in enumerate(study.parts) if _to_do(part, Path(out))]
    numbers.sort(key=lambda i: (len(study.parts[i].steps), study.parts[i].model.get("n_parameters", 0)), reverse=True)
    on_gpu = any(part.model.get("device", "cpu") != "cpu" for part in study.parts)
    threads = torch.get_num_threads()
    jobs = min(len(numbers), jobs if jobs is not None else 1 if on_gpu else threads)
    if jobs < 2:
        return
    out = open_folder(out, study.name)
    context = multiprocessing.get_context("spawn")
    news: Any = context.Queue()
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, context, _start, (build, max(1, threads // jobs), news))
    with bar_over(study, progress) as watch:
        work: list[Future[None]] = [pool.submit(_carry_out, number, out, png) for number in numbers]
        try:
            while not all(future.done() for future in work):
                with contextlib.suppress(queue.Empty):
                    watch(*news.get(timeout=_LOOK))
                for future in work:
                    if future.done():
                        future.result()
        except BrokenProcessPool:
            raise ConfigError(
                "a process of the run died, perhaps for lack of memory; the same command with --jobs 1 goes on from "
                "here and needs less"
            ) from None
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()  # what they have finished is kept
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _to_do(part: Part, out: Path) -> bool:
    """Whether a part needs no other part and is not finished."""
    alone = all(step.derive is None for step in part.steps)
    return alone and not all(is_done(step, out / part.name / step.name) for step in part.steps)


_HERE: dict[str, Any] = {}
"""What this process keeps for all parts that come its way: the study, and where it tells how far it is."""


def _start(build: Build, threads: int, news: Any) -> None:
    """Set up a process: its share of the threads, its study, and an end with the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()
    _HERE.update(study=build(), news=news)


def _carry_out(number: int, out: Path, png: bool) -> None:
    study: Study = _HERE["study"]
    with PictureWriter(out, png=png) as writer:
        deque(carry_out(study.parts[number], out, {}, writer, lambda *news: _HERE["news"].put(news)), maxlen=0)
