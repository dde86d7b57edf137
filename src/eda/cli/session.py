"""Runs a command that needs a connection: opens it, does the work, and ends with the right exit code."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import eda
from eda.cli.contexts import connect_arguments
from eda.cli.ending import run_to_end
from eda.cli.failure import Failure

__all__ = ["connection", "run_with_conn"]

T = TypeVar("T")

# How eda logs what a reader of a command skips, and how its user is told: nobody has made that subscription.
_PLAINER = {
    "; for subscription private it is skipped, as dead_letter is None": " and is skipped",
    ", subscription private": "",
    "subscription private of stream": "reading stream",
}


def connection(
    server: Mapping[str, Any], *, client: str = "eda-cli", auto_create: bool = False, **more: Any
) -> eda.Conn:
    """Return a connection to the server that the options of a command name. It creates no stream. Raises Failure."""
    arguments = {"client": client} | connect_arguments(server)
    return eda.connect(auto_create=auto_create, **arguments, **more)


def run_with_conn(server: Mapping[str, Any], work: Callable[[eda.Conn], Awaitable[T]], **more: Any) -> T:
    """Open a connection, do `work(conn)`, and return its result.

    Raises Failure for an error of eda or of the system, and Exit after a signal. Warnings go to standard error.
    """
    log_to_stderr()

    async def run() -> T:
        async with connection(server, **more) as conn:
            return await work(conn)

    return run_to_end(run(), (eda.EdaError, OSError), Failure)


def log_to_stderr() -> None:
    """Let warnings of eda go to standard error, a line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("eda: %(message)s"))
    handler.addFilter(_is_news)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("nats").setLevel(logging.CRITICAL)  # eda reports what matters


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a line tells what the command does not: the end of its own private subscription is its error."""
    return not re.match(r"subscription private to \S+ ends: ", record.getMessage())


class _Lines(logging.Formatter):
    """The lines of a log without the private subscriptions, with which commands read streams."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        for ours, plainer in _PLAINER.items():
            text = text.replace(ours, plainer)
        return text
