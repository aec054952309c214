"""The `interp` command."""

from __future__ import annotations


def main() -> None:
    """Entry point: run a command; a user's error is one line and exit code 2."""
    from interp.cli.app import run

    run()
