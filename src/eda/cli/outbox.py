"""`eda outbox`: publishes the events that transactions have left in an outbox."""

from __future__ import annotations

from typing import Any

import click

from eda.cli.failure import Failure
from eda.cli.options import server_options

__all__ = ["outbox"]


@click.group()
def outbox() -> None:
    """Publish the events that transactions have left in an outbox."""


@outbox.command()
@click.option(
    "--into",
    metavar="URL",
    required=True,
    help="The database of the outbox: sqlite:///path or postgresql://user@host/database.",
)
@click.option("--table", default="eda_outbox", show_default=True, metavar="NAME", help="The table of the outbox.")
@click.option(
    "--refused",
    type=click.Choice(["block", "dead"]),
    default="block",
    show_default=True,
    help="What becomes of a row that its stream refuses: it and all later rows of its aggregate wait, or it is moved "
    "to the table NAME_dead.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object every 5 seconds, and one at the end.")
@server_options
def relay(into: str, table: str, refused: str, as_json: bool, **server: Any) -> None:
    """Publish the events of an outbox, and delete their rows, until the command is stopped.

    Several of these commands may run. One of them is active, and the others stand by. Streams are not created. SIGTERM
    and Ctrl-C let the command finish the events that it is publishing. Warnings go to standard error.

    With --json, an object has the fields sent, acknowledged, found, refused, dead, waiting, oldest_s and active.

    The exit code is 0 after SIGTERM, 130 after Ctrl-C, and 2 if the relay could not begin or an error has ended it.
    """
    import eda
    from eda.cli.relaying import RelayFailed, run_relay

    try:
        eda.run(run_relay(into, table, refused, server, as_json=as_json))
    except (RelayFailed, OSError) as error:
        raise Failure(str(error)) from None
