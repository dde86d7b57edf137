"""Runs a command about a stream or a subscription that may not exist."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import click

import eda
from eda.cli.session import run_with_conn

__all__ = ["NotThere", "run_on_known"]

T = TypeVar("T")


class NotThere(click.ClickException):
    """What the command was told to work on does not exist. The exit code is 1."""

    exit_code = 1


def run_on_known(server: Mapping[str, Any], work: Callable[[eda.Conn], Awaitable[T]]) -> T:
    """Do what `run_with_conn` does. Raises NotThere if a stream does not exist."""

    async def run(conn: eda.Conn) -> T:
        try:
            return await work(conn)
        except eda.StreamNotFound as error:
            raise NotThere(str(error)) from None

    return run_with_conn(server, run)
