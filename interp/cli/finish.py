"""What ends every command that makes a page: the study is carried out, written down and told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.markup import escape

from interp.cli.options import out_console


def finish(build: Callable[[], Any], out: Path | None, png: bool, quiet: bool, jobs: int | None = None) -> None:
    """Carry out the study that `build` makes, write its page into the folder and print its verdicts."""
    from interp.reports.page import write_report
    from interp.studies.parallel import carry_out_parts
    from interp.studies.study import run_study

    study = build()
    folder: Path = out or Path("runs") / study.name
    carry_out_parts(build, study, folder, jobs=jobs, png=png, progress=not quiet)
    run = run_study(study, folder, png=png, progress=not quiet)
    index, summary = write_report(folder)
    if run["further"]:
        from interp.reports.dashboard import write_dashboard

        write_dashboard(folder)
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
    for title, path in run["further"].items():
        out_console.print(f"\n{title.lower()}: {folder / path}", soft_wrap=True, end="")
    out_console.print(f"\npage:    {index}\nsummary: {summary}", soft_wrap=True)
