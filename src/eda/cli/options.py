"""The options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["addr_option", "json_option", "packed_option", "server_options"]

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
packed_option: Callable[[F], F] = click.option(
    "--packed", is_flag=True, help="Publish packs: up to 128 events in one stored message."
)


def server_options(command: F) -> F:
    """Add the options that say which server a command uses: --addr, --cluster, --credentials and --nkey."""
    for option in reversed(_SERVER):
        command = option(command)
    return command


_SERVER: tuple[Callable[[F], F], ...] = (
    click.option(
        "--addr",
        metavar="URL",
        help="The NATS server.  [default: $EDA_URL, else $NATS_URL, else nats://127.0.0.1:4222]",
    ),
    click.option("--cluster", metavar="DOMAIN", help="The JetStream domain that the stream is in."),
    click.option("--credentials", metavar="FILE", type=click.Path(), help="The .creds file to log in with."),
    click.option(
        "--nkey", metavar="FILE", type=click.Path(), help="The file with the seed of the nkey to log in with."
    ),
)
