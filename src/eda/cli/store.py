"""`eda store`: looks into an event store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from eda.cli.failure import Failure
from eda.cli.options import server_options

if TYPE_CHECKING:
    import eda

__all__ = ["store"]

NO_SUCH_AGGREGATE = 1


@click.group()
def store() -> None:
    """Look into the stream of an event store."""


@store.command()
@click.argument("stream")
@click.argument("aggregate")
@click.option(
    "--after",
    type=click.IntRange(min=0),
    default=0,
    metavar="VERSION",
    help="Print only the events after this version.  [default: all]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line for each event.")
@server_options
def cat(
    stream: str,
    aggregate: str,
    after: int,
    as_json: bool,
    **server: Any,
) -> None:
    """Print the events of one aggregate, the oldest first.

    The command changes nothing on the server. It prints the data as it is stored: upcasters and middleware of your
    programs don't run.

    A JSON object has the fields stream, aggregate, version, sequence, index, type, id, time, ack_time, cause, client,
    schema, meta, encoding and data. If the data has no exact form in JSON, data_base64 has the stored bytes; if it has
    none at all, data is null.

    The exit code is 0 if the history was read, 1 if the aggregate has no events or was forgotten, and 2 if the
    history can't be read.
    """
    from eda.cli.ending import print_to_end
    from eda.cli.history import print_history, print_json
    from eda.cli.session import run_with_conn
    from eda.store_errors import AggregateForgotten

    async def read(conn: eda.Conn) -> list[eda.Event] | AggregateForgotten | None:
        """Return the events after the version; None if the aggregate has none at all."""
        store: eda.EventStore[Any, Any] = conn.store(stream, cache=0)
        try:
            events: list[eda.Event] = await store.history(aggregate, after=after)
            if not events and not (after and await store.history(aggregate)):
                return None
        except AggregateForgotten as error:
            return error
        return events

    events = run_with_conn(server, read, logger=None)
    if events is None:
        click.echo(f"Error: stream {stream!r} has no events of aggregate {aggregate!r}", err=True)
        raise click.exceptions.Exit(NO_SUCH_AGGREGATE)
    if not isinstance(events, list):
        click.echo(f"Error: {events}", err=True)
        raise click.exceptions.Exit(NO_SUCH_AGGREGATE)
    print_to_end(lambda: (print_json if as_json else print_history)(events), Failure)
