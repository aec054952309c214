"""The commands. Each parses, calls the library and prints; heavy imports wait until a command runs."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from interp.cli.analyze import ManyValues, analyze_command, compare_command
from interp.cli.data_arithmetic import data_arithmetic
from interp.cli.data_chat import data_safety_chat
from interp.cli.data_judge import data_safety_judge
from interp.cli.data_kill_switch import data_kill_switch
from interp.cli.graph import graph_command
from interp.cli.monitor import monitor_command
from interp.cli.options import out_console
from interp.cli.probe import probe_command
from interp.cli.run import run_command
from interp.cli.train import finetune_command, train_command
from interp.errors import ConfigError, DataError, InterpError, PromptError

app = typer.Typer(
    name="interp",
    help="Mechanistic interpretability with an interval and a control beside every number.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Make data sets.", no_args_is_help=True)

error_console = Console(stderr=True)

app.command("run")(run_command)
app.command("analyze", cls=ManyValues)(analyze_command)
app.command("compare", cls=ManyValues)(compare_command)
app.command("train")(train_command)
app.command("finetune")(finetune_command)
app.command("graph")(graph_command)
app.command("probe")(probe_command)
app.command("monitor")(monitor_command)
app.add_typer(data_app, name="data")
data_app.command("arithmetic")(data_arithmetic)
data_app.command("kill-switch")(data_kill_switch)
data_app.command("safety-judge")(data_safety_judge)
data_app.command("safety-chat")(data_safety_chat)


@app.command("list")
def list_command() -> None:
    """Show the studies and the shipped models."""
    from interp.studies.catalogue import listing

    for kind, rows in listing().items():
        table = Table(title=kind, title_justify="left", show_header=False, box=None, pad_edge=False)
        for name, line in rows:
            table.add_row(f"[bold]{escape(name)}[/]", escape(line))
        out_console.print(table)


def run(arguments: list[str] | None = None) -> None:
    """Run the command line. Errors of the user print one line on stderr and exit with 2."""
    try:
        code = app(args=arguments, standalone_mode=False)
    except InterpError as error:
        kinds = {ConfigError: "settings", PromptError: "prompts", DataError: "data"}
        _fail(next((name for kind, name in kinds.items() if isinstance(error, kind)), "model"), str(error))
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is None:  # the parser's own errors have it
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            raise SystemExit(2) from None
        _fail("command", f"{message()} See interp --help.")
    else:
        if code == 130:
            error_console.print("stopped; the same command goes on from here")
        raise SystemExit(code if isinstance(code, int) else 0)


def _fail(kind: str, message: str) -> NoReturn:
    line = " ".join(message.split())
    error_console.print(f"[bold red]error[/] ({kind}): {escape(line)}", soft_wrap=True, highlight=False)
    raise SystemExit(2) from None
