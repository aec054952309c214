"""`interp monitor`: what a judge learned when, from its checkpoints or from a recording."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from interp.cli.options import Device, Quiet, Threads, use_threads
from interp.errors import ConfigError

if TYPE_CHECKING:
    from interp.monitoring.recorder import Recorder

RECORDING = "recording"
"""Folder of the records within that of a model that is watched while it trains."""


def monitor_command(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(metavar="CHECKPOINT...", help="Folders of one training; or one folder with a recording."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of records and pages; by default runs/monitor.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Labelled texts as JSONL or CSV; by default held-out requests with a known rule."),
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of the texts in --data.")] = "text",
    label_column: Annotated[str, typer.Option(help="Column of the labels in --data: safe or unsafe.")] = "label",
    category_column: Annotated[str | None, typer.Option(help="Column of the categories in --data.")] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Column of what makes texts in --data depend on each other, as their template.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="How the judge is asked, with {prompt}; a judge's folder says it.")
    ] = None,
    safe: Annotated[str | None, typer.Option(help='The answer that means safe, as it follows: " safe".')] = None,
    unsafe: Annotated[str | None, typer.Option(help='The answer that means unsafe, as it follows: " unsafe".')] = None,
    visualize: Annotated[bool, typer.Option("--visualize", help="Also pages for every snapshot.")] = False,
    device: Device = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """What a safety judge learned when: its checkpoints, asked the same texts, in one page.

    Checkpoints are taken in the order of the steps in their names (step-00050, checkpoint-500), else as given. For a
    folder that a recorder has written to, also while the training runs, the page alone is made anew.
    """
    use_threads(threads)
    from interp.monitoring.records import is_recording

    if len(checkpoints) == 1 and is_recording(checkpoints[0]):
        if out is not None or data is not None:
            raise ConfigError(
                f"{checkpoints[0]} is a recording, whose pages are written beside it; leave out --out and --data"
            )
        show_pages(checkpoints[0], visualize)
        return
    from interp.datasets.labelled import read_labelled
    from interp.monitoring.checkpoints import record_checkpoints
    from interp.monitoring.probe import judging_probe, labelled_probe

    probe = judging_probe()
    if data is not None:
        probe = labelled_probe(
            read_labelled(data, text=text_column, label=label_column, category=category_column, group=group_column)
        )
    folder = out or Path("runs") / "monitor"
    record_checkpoints(
        checkpoints, probe, out=folder, template=template, safe=safe, unsafe=unsafe, device=device, progress=not quiet
    )
    show_pages(folder, visualize)


def show_pages(folder: Path, each: bool) -> None:
    """Write the pages of a recording and print what they say."""
    from interp.reports.training import told_by, write_training_pages

    console = Console()
    page = write_training_pages(folder, each=each)
    for line in told_by(folder):
        console.print(escape(line), highlight=False)
    console.print(f"page: {page}", soft_wrap=True)


class Watcher:
    """Watches a judge's recipe, for `interp train --visualize`."""

    def __init__(self, folder: Path, *, total: int, interval: int | None) -> None:
        self.out = folder / RECORDING
        self._options: dict[str, Any] = {"total": total, "every": interval or "log", "out": self.out}
        self._recorder: Recorder | None = None

    def __call__(self, model: Any, tokenizer: Any) -> Any:
        """Begin: the model before its first step."""
        from interp.datasets.judging import ANSWERS, TEMPLATE
        from interp.monitoring.probe import judging_probe
        from interp.monitoring.recorder import Recorder

        asked = {"template": TEMPLATE, "safe": f" {ANSWERS[0]}", "unsafe": f" {ANSWERS[1]}"}
        self._recorder = Recorder(model, tokenizer, judging_probe(), **asked, **self._options)
        return self._recorder.step

    def finish(self) -> None:
        """Write the pages."""
        if self._recorder is not None:
            self._recorder.close()
            show_pages(self.out, True)
