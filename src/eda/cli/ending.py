"""How a command ends: by itself, by a signal, or by an error, each with its exit code."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import click

from eda.cli.failure import INTERRUPTED
from eda.cli.option_names import told

__all__ = ["print_to_end", "run_to_end"]

TERMINATED = 143

T = TypeVar("T")


def run_to_end(
    work: Coroutine[Any, Any, T], errors: tuple[type[Exception], ...], failure: Callable[[str], Exception]
) -> T:
    """Run a coroutine, and return its result. SIGTERM and SIGHUP cancel it, so that it can tidy up, as Ctrl-C does.

    Raises Exit after a signal. An error of `errors` becomes a `failure`. Its text is one line, and names options
    of the command.
    """
    try:
        return asyncio.run(_until_signal(work))
    except asyncio.CancelledError:
        click.echo("terminated", err=True)
        raise click.exceptions.Exit(TERMINATED) from None
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # nobody reads the output any more: click ends the program
        raise
    except errors as error:
        raise failure(told(error)) from None


async def _until_signal(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    assert task is not None
    for name in ("SIGTERM", "SIGHUP"):
        with suppress(AttributeError, NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(getattr(signal, name), task.cancel)
    return await work


def print_to_end(show: Callable[[], object], failure: Callable[[str], Exception]) -> None:
    """Call `show`, which prints. Raise a `failure` if standard output can't be written, but not for a closed pipe."""
    try:
        show()
        sys.stdout.flush()
    except BrokenPipeError:  # click ends the program
        raise
    except OSError as error:  # such as a full disk
        raise failure(f"standard output can't be written: {error.strerror}") from error
