"""`eda store`: looks into an event store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from eda.cli.options import server_options

if TYPE_CHECKING:
    import eda

__all__ = ["store"]

NO_SUCH_AGGREGATE = 1


class _Failure(click.ClickException):
    """A failure that click prints: the history can't be read."""

    exit_code = 2


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
    addr: str | None,
    cluster: str | None,
    credentials: str | None,
    nkey: str | None,
) -> None:
    """Print the events of one aggregate, the oldest first.

    The command changes nothing on the server. It prints the data as it is stored: upcasters and middleware of your
    programs don't run.

    A JSON object has the fields stream, aggregate, version, sequence, type, id, time, ack_time, cause, client, schema,
    meta, encoding and data. If the data has no form in JSON, it is null, and data_base64 has the stored bytes.

    The exit code is 0 if the history was read, 1 if the aggregate has no events or was forgotten, and 2 if the
    history can't be read.
    """
    import asyncio

    from eda.cli.ending import print_to_end
    from eda.cli.history import print_history, print_json
    from eda.errors import EdaError
    from eda.store_errors import AggregateForgotten

    options = {"cluster": cluster, "credentials": credentials, "nkey": nkey}
    try:
        events = asyncio.run(_read(addr, options, stream, aggregate, after))
    except AggregateForgotten as error:
        click.echo(f"Error: {error}", err=True)
        raise click.exceptions.Exit(NO_SUCH_AGGREGATE) from None
    except KeyboardInterrupt:
        raise click.Abort from None
    except (EdaError, OSError) as error:
        raise _Failure(" ".join(str(error).split())) from None
    if events is None:
        click.echo(f"Error: stream {stream!r} has no events of aggregate {aggregate!r}", err=True)
        raise click.exceptions.Exit(NO_SUCH_AGGREGATE)
    print_to_end(lambda: (print_json if as_json else print_history)(events), _Failure)


async def _read(
    addr: str | None, options: dict[str, Any], stream: str, aggregate: str, after: int
) -> list[eda.Event] | None:
    """Return the events after the version; None if the aggregate has none at all."""
    import eda

    async with eda.connect(addr, client="eda-store", logger=None, auto_create=False, **options) as conn:
        store: eda.EventStore[Any, Any] = conn.store(stream, cache=0)
        events: list[eda.Event] = await store.history(aggregate, after=after)
        if not events and not (after and await store.history(aggregate)):
            return None
        return events
