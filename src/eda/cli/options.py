"""The options that every command has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["addr_option", "json_option"]

F = TypeVar("F", bound=Callable[..., Any])

addr_option: Callable[[F], F] = click.option(
    "--addr",
    metavar="URL",
    help="Your own NATS server, with JetStream. The command creates a stream there and deletes it at the end. "
    "[default: an embedded nats-server]",
)
json_option: Callable[[F], F] = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead of progress bars and a table."
)
