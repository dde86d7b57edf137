"""`eda streams`: lists, describes, creates, changes, purges and deletes streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from eda.cli.options import lines_option, server_options, yes_option
from eda.cli.values import DURATION, NOTHING, SIZE, or_none

__all__ = ["streams"]

F = TypeVar("F", bound=Callable[..., Any])

_COUNT = click.IntRange(min=1)
_LIMITS = ("max_age_s", "max_bytes", "max_events", "dedup_window_s")
_FIELDS = ("packed", "storage", "replicas", *_LIMITS, "compression", "discard", "atomic", "fast_ingest", "store")

# The settings that can be given when a stream is created, and changed later. Each takes the name of its field.
_SETTINGS: tuple[Callable[[F], F], ...] = (
    click.option("--replicas", type=click.IntRange(1, 5), help="How many servers keep the stream."),
    click.option(
        "--max-age",
        "max_age_s",
        metavar="DURATION",
        type=or_none(DURATION),
        help="Remove events after this time, such as 7d; none: keep them.",
    ),
    click.option(
        "--max-bytes", metavar="SIZE", type=or_none(SIZE), help="The largest size, such as 10GB; none: no limit."
    ),
    click.option(
        "--max-events", metavar="N", type=or_none(_COUNT), help="The largest number of messages; none: no limit."
    ),
    click.option(
        "--dedup-window",
        "dedup_window_s",
        metavar="DURATION",
        type=DURATION,
        help="For how long an event that is sent again is recognised, such as 2m.",
    ),
    click.option("--compression", type=or_none(click.Choice(["s2"])), metavar="s2|none", help="How events are stored."),
    click.option(
        "--discard",
        type=click.Choice(["old", "new"]),
        help="What a full stream does: remove old events, or refuse new ones.",
    ),
    click.option("--atomic/--no-atomic", default=None, help="Whether it accepts batches that are all or nothing."),
    click.option("--fast-ingest/--no-fast-ingest", default=None, help="Whether it accepts fast-ingest batches."),
    click.option("--store/--no-store", default=None, help="Whether it belongs to event stores."),
)


def _settings(command: F) -> F:
    for option in reversed(_SETTINGS):
        command = option(command)
    return command


@click.group()
def streams() -> None:
    """List, describe, create, change, purge and delete streams."""


@streams.command("ls")
@lines_option
@server_options
def list_streams(as_json: bool, **server: Any) -> None:
    """List all streams.

    A pack counts as one event. With --json, each stream is an object with the fields name, events, bytes,
    first_sequence, last_sequence, first_time, last_time, created, storage, replicas, retention, packed, store and
    consumers.
    """
    from eda.cli.stream_list import show_streams

    show_streams(server, as_json=as_json)


@streams.command()
@click.argument("name")
@lines_option
@server_options
def info(name: str, as_json: bool, **server: Any) -> None:
    """Describe a stream: its settings, what it holds, what it allows, and its subscriptions.

    With --json, one object is printed, with the fields of `streams ls` and subjects, max_age_s, max_bytes, max_events,
    dedup_window_s, compression, discard, atomic, fast_ingest, mirror, sources, no_ack, sealed, deny_delete,
    deny_purge, max_events_per_subject, max_event_bytes, max_consumers, and subscriptions, a list of objects as
    `subs ls` prints them.

    The exit code is 1 if there is no such stream.
    """
    from eda.cli.stream_list import show_stream

    show_stream(server, name, as_json=as_json)


@streams.command()
@click.argument("name")
@click.option("--packed", is_flag=True, default=None, help="The stream may have packs. This can't be changed later.")
@click.option("--storage", type=click.Choice(["file", "memory"]), help="Where events are kept.  [default: file]")
@_settings
@lines_option
@server_options
def create(name: str, as_json: bool, **options: Any) -> None:
    """Create a stream.

    If it exists with the same settings, nothing is changed. With --json, the stream is printed as by `streams info`.
    """
    from eda.cli.stream_changes import create_stream

    create_stream(*_split(options), name, as_json=as_json)


@streams.command()
@click.argument("name")
@_settings
@click.option(
    "--storage", type=click.Choice(["file", "memory"]), help="Where events are kept, if the server allows it."
)
@yes_option
@lines_option
@server_options
def update(name: str, yes: bool, as_json: bool, **options: Any) -> None:
    """Change settings of a stream. Those that are not given stay.

    The command asks before a lower limit removes events. A stream can't become packed, or stop being packed. With
    --json, the stream is printed as by `streams info`.

    The exit code is 1 if there is no such stream, or if the answer is no.
    """
    from eda.cli.stream_changes import update_stream

    update_stream(*_split(options), name, yes=yes, as_json=as_json)


@streams.command()
@click.argument("name")
@click.option("--before", metavar="SEQ", type=_COUNT, help="Only the events before this sequence.")
@click.option("--keep", metavar="N", type=_COUNT, help="All but the last N messages.")
@click.option("--aggregate", metavar="TEXT", help="Only the events of this aggregate.")
@yes_option
@lines_option
@server_options
def purge(
    name: str, before: int | None, keep: int | None, aggregate: str | None, yes: bool, as_json: bool, **server: Any
) -> None:
    """Remove events of a stream: all, or those that the options name.

    The command asks first, and says which subscriptions have not handled all events yet. Positions of subscriptions
    stay: they continue with the events that are left. With --json, one object with stream and purged (how many
    messages were removed) is printed.

    The exit code is 1 if there is no such stream, or if the answer is no.
    """
    from eda.cli.stream_changes import purge_stream

    purge_stream(server, name, yes=yes, as_json=as_json, before=before, keep=keep, aggregate=aggregate)


@streams.command("rm")
@click.argument("name")
@click.option("--cursors", is_flag=True, help="Also delete the positions of its ordered subscriptions.")
@yes_option
@lines_option
@server_options
def remove(name: str, cursors: bool, yes: bool, as_json: bool, **server: Any) -> None:
    """Delete a stream with all its events.

    Its shared subscriptions are deleted with it. The positions of its ordered subscriptions stay in the bucket
    eda-cursors, unless --cursors is given. They do no harm: if the stream is created again, its subscriptions notice
    that, and start as their options say. The command asks first. With --json, one object with stream, events, shared
    and ordered (how many subscriptions there were) and cursors_deleted is printed.

    The exit code is 1 if there is no such stream, or if the answer is no.
    """
    from eda.cli.stream_changes import remove_stream

    remove_stream(server, name, cursors=cursors, yes=yes, as_json=as_json)


def _split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of the connection, and the settings of the stream that were given."""
    server = {name: value for name, value in options.items() if name not in _FIELDS}
    given = {name: options[name] for name in _FIELDS if options.get(name) is not None}
    return server, {name: None if value == NOTHING else value for name, value in given.items()}
