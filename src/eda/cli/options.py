"""The options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from eda.cli.values import INTERVAL

__all__ = [
    "addr_option",
    "interval_option",
    "json_option",
    "lines_option",
    "packed_option",
    "server_options",
    "yes_option",
]

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
interval_option: Callable[[F], F] = click.option(
    "--interval",
    metavar="DURATION",
    type=INTERVAL,
    default="2s",
    show_default=True,
    help="The pause between looks: at least 100ms.",
)
lines_option: Callable[[F], F] = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
yes_option: Callable[[F], F] = click.option("--yes", is_flag=True, help="Do not ask.")
packed_option: Callable[[F], F] = click.option(
    "--packed", is_flag=True, help="Publish packs: up to 128 events in one stored message."
)


def server_options(command: F) -> F:
    """Add the options that say which server a command uses, and how to log in. The command takes them as `**server`."""
    for option in reversed(_SERVER):
        command = option(command)
    return command


_FILE = click.Path(dir_okay=False)
_SERVER: tuple[Callable[[F], F], ...] = (
    click.option(
        "--addr",
        metavar="URL",
        help="The NATS server.  [default: $EDA_URL, else $NATS_URL, else the context that the nats command line has "
        "selected, else nats://127.0.0.1:4222]",
    ),
    click.option("--context", metavar="NAME", help="A context of the nats command line: its server and credentials."),
    click.option("--cluster", metavar="DOMAIN", help="The JetStream domain that the stream is in."),
    click.option("--user", metavar="NAME", help="The user to log in as.  [default: $EDA_USER]"),
    click.option("--password", metavar="TEXT", help="The user's password.  [default: $EDA_PASSWORD]"),
    click.option("--token", metavar="TEXT", help="The token to log in with.  [default: $EDA_TOKEN]"),
    click.option("--credentials", metavar="FILE", type=click.Path(), help="The .creds file to log in with."),
    click.option(
        "--nkey", metavar="FILE", type=click.Path(), help="The file with the seed of the nkey to log in with."
    ),
    click.option(
        "--tls-ca", metavar="FILE", type=_FILE, help="The authorities that the server's certificate is checked with."
    ),
    click.option("--tls-cert", metavar="FILE", type=_FILE, help="The client's certificate."),
    click.option("--tls-key", metavar="FILE", type=_FILE, help="The key of the client's certificate."),
    click.option("--client", metavar="NAME", help="The name of this connection on the server."),
    click.option(
        "--connect-timeout",
        "connect_timeout_s",
        metavar="SECONDS",
        type=click.FloatRange(0, 3600, min_open=True),
        help="How long to try to reach the server.  [default: 5]",
    ),
)
