"""`interp probe`: a judge's verdict while one types, on a local page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.options import Device, Threads, use_threads
from interp.errors import ConfigError


def probe_command(
    model: Annotated[str, typer.Argument(help="A judge: a shipped model, a folder or a Hugging Face name.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes any free one.")] = 8765,
    template: Annotated[
        str | None, typer.Option(help="How it is asked, with {prompt}; a judge's folder says it.")
    ] = None,
    safe: Annotated[str | None, typer.Option(help='The answer that means safe, as it follows: " safe".')] = None,
    unsafe: Annotated[str | None, typer.Option(help='The answer that means unsafe, as it follows: " unsafe".')] = None,
    text: Annotated[str | None, typer.Option(help="The prompt that the page begins with.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write what the page would show for --text (.html, .json), and end.")
    ] = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Type a prompt and see a safety judge's verdict, and why, while you type.

    Serves a page on this machine alone until Ctrl+C: the verdict, the share of each token, the log-odds by depth, and
    one-word edits that turn the verdict, each verified.
    """
    if out is not None and text is None:
        raise ConfigError("--out needs the prompt; give it with --text")
    if out is not None and out.suffix not in (".html", ".json"):
        raise ConfigError(f"--out writes .html or .json, not {out.name}; choose one of them")
    use_threads(threads)
    from interp.files import write_json, write_text
    from interp.models.judge import load_judge
    from interp.serve.snapshot import page
    from interp.serve.view import about, view

    judge = load_judge(model, template=template, safe=safe, unsafe=unsafe, device=device)
    if out is not None and text is not None:
        shown, told = view(judge, text), about(judge)
        if out.suffix == ".html":
            write_text(out, page(shown, told))
        else:
            write_json(out, {"about": told, "view": shown.as_dict()})
        typer.echo(f"{shown.verdict}, log-odds {shown.log_odds:+.2f}: {out}")
        return
    from interp.serve.server import serve

    serve(judge, port=port, text=text or "", ready=_say)


def _say(address: str) -> None:
    typer.echo(f"probe: {address}\nCtrl+C ends it.")
