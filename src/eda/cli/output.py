"""How commands print: lines of JSON, texts that are safe on a terminal, and questions."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from eda.cli.failure import Failure
from eda.times import since_epoch_ns
from eda.times import time_text as text_of_ns

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["confirm", "console", "print_json", "safe", "time_text"]


def print_json(fields: Mapping[str, Any]) -> None:
    """Print one JSON object in a line of its own, in ASCII."""
    click.echo(json.dumps(fields, allow_nan=False))


def console(*, stderr: bool = False) -> Console:
    """Return the console that a command prints tables to. It has colours only on a terminal."""
    from rich.console import Console  # not needed for JSON, and slow to import

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def safe(text: str, encoding: str | None = None) -> str:
    """Return a text as a terminal may show it: without control characters, and in the terminal's encoding."""
    encoding = encoding or sys.stdout.encoding or "utf-8"
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def time_text(time: datetime | None) -> str | None:
    """Return a time in RFC 3339, in UTC with milliseconds; None for None."""
    if time is None:
        return None
    return text_of_ns(since_epoch_ns(time))


def confirm(question: str, *, yes: bool) -> None:
    """Ask whether to do something that can't be undone. Return if the answer is yes, or if `yes` was given.

    Raises Exit: with code 1 if the answer is no, as it also is after Ctrl-D, and with code 130 after Ctrl-C. Raises
    Failure if there is no terminal to ask on.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure(f"{question} Add --yes to do it: there is no terminal to ask on")
    try:
        is_yes = click.confirm(question, err=True)
    except click.Abort as abort:
        click.echo(err=True)  # the question's line has no end
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        is_yes = False
    if not is_yes:
        click.echo("nothing was changed", err=True)
        raise click.exceptions.Exit(1)
