"""The options that every command has."""

from __future__ import annotations

import click

__all__ = ["addr_option", "json_option"]

addr_option = click.option(
    "--addr",
    metavar="URL",
    help="Your own NATS server, with JetStream. The command creates a stream there and deletes it at the end. "
    "[default: an embedded nats-server]",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead of progress bars and a table."
)
