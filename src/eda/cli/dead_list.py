"""`eda dead ls`: a line for each dead letter, or how many each subscription has."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import click

import eda
from eda.amounts import duration_text
from eda.cli.output import print_json, safe, time_text
from eda.cli.tables import Column, print_rows

__all__ = ["fields_of_letter", "list_dead", "read_letters", "summarise_dead"]

MAX_GROUPS = 1000  # groups of a summary; letters of further groups are counted together


def fields_of_letter(letter: eda.DeadLetter) -> dict[str, Any]:
    """Return a letter as values for JSON."""
    event = letter.event
    return {
        "sequence": letter.sequence,
        "dead_letter": letter.dead_letter,
        "stream": letter.stream,
        "subscription": letter.subscription,
        "reason": letter.reason,
        "error": letter.error,
        "attempts": letter.attempts,
        "time": time_text(letter.time),
        "place": letter.place,
        "event_sequence": letter.event_sequence,
        "event_index": letter.event_index,
        "event_id": letter.event_id,
        "type": None if event is None else event.type,
        "aggregate": None if event is None else event.aggregate,
        "bytes": letter.omitted_bytes or len(letter.payload),
        "omitted_bytes": letter.omitted_bytes,
        "no_event": letter.no_event or None,
    }


async def list_dead(
    conn: eda.Conn, stream: str, types: frozenset[str], limit: int | None, options: Mapping[str, Any], as_json: bool
) -> None:
    """Print the letters: as lines of JSON while they are read, or at most `limit` of them as a table."""
    if not as_json:
        await _list_as_table(conn, stream, types, limit, options)
        return
    n_shown = 0
    async with aclosing(read_letters(conn, stream, types, options)) as letters:
        async for letter in letters:
            print_json(fields_of_letter(letter))
            n_shown += 1
            if n_shown == limit:
                return


async def _list_as_table(
    conn: eda.Conn, stream: str, types: frozenset[str], limit: int | None, options: Mapping[str, Any]
) -> None:
    """Print a table. Below it, say how many messages of the dead-letter stream it leaves out, and if there are more."""
    rows: list[eda.DeadLetter] = []
    n_others, has_more = 0, False
    async with aclosing(read_letters(conn, stream, types, {**options, "others": True})) as letters:
        async for letter in letters:
            if not options["others"] and not (letter.is_letter and letter.stream == stream):
                n_others += 1
            elif len(rows) == limit:
                has_more = True
                break
            else:
                rows.append(replace(letter, payload=b""))
    if rows:
        _print_letters(rows, stream)
    else:
        click.echo("no dead letters", err=True)
    if n_others:
        click.echo(f"The dead-letter stream has {n_others:,} other messages. List them with --others.", err=True)
    if has_more:
        click.echo(f"These are the first {len(rows):,}. See more with --limit, or count them with --summary.", err=True)


async def read_letters(
    conn: eda.Conn, stream: str, types: frozenset[str], options: Mapping[str, Any]
) -> AsyncGenerator[eda.DeadLetter, None]:
    """Yield the letters of these types (empty: of all). If the stream has no dead-letter stream yet, there are none.

    Raises StreamNotFound if the stream itself does not exist, and other errors of eda.
    """
    try:
        async with aclosing(conn.dead_letters(stream, **options)) as letters:
            async for letter in letters:
                if not types or (letter.event is not None and letter.event.type in types):
                    yield letter
    except eda.StreamNotFound as missing:
        # The stream itself must exist. Otherwise its name may be a mistake, and that is an error.
        await conn.streams.info(stream)
        hint = f"; for the letters in {stream} itself, name the stream that they come from" * stream.endswith("-dead")
        click.echo(f"stream {stream} has no dead letters: there is no stream {missing.stream}{hint}", err=True)


_LETTERS = (
    Column("seq", right=True),
    Column("age", drop=3),
    Column("subscription", is_name=True),
    Column("reason"),
    Column("attempts", right=True, drop=5),
    Column("event", drop=1),
    Column("type", drop=2),
    Column("aggregate", drop=4),
    Column("error", elastic=24),
)


def _print_letters(rows: list[eda.DeadLetter], stream: str) -> None:
    """Print a row for each letter."""
    print_rows(_LETTERS, [[safe(text) for text in _cells(letter, stream)] for letter in rows])


def _cells(letter: eda.DeadLetter, stream: str) -> list[str]:
    event = letter.event
    from_other = "" if letter.stream in ("", stream) else f"{letter.stream} "
    return [
        str(letter.sequence),
        _age(letter.time),
        letter.subscription or "-",
        letter.reason if letter.is_letter else "no letter",
        str(letter.attempts) if letter.attempts else "-",
        f"{from_other}{letter.place}" or "-",
        "-" if event is None else event.type,
        "-" if event is None else event.aggregate,
        letter.error or letter.no_event,
    ]


def _age(time: datetime | None) -> str:
    """Return how long ago it was, as people write it."""
    return "-" if time is None else duration_text((datetime.now(UTC) - time).total_seconds())


# --- the summary -----------------------------------------------------------------------------------------------------


@dataclass
class _Group:
    """The letters of a subscription that have the same reason."""

    letters: int = 0
    first: datetime | None = None
    last: datetime | None = None
    last_error: str = ""


async def summarise_dead(
    conn: eda.Conn, stream: str, types: frozenset[str], limit: int | None, options: Mapping[str, Any], as_json: bool
) -> None:
    """Print how many letters each subscription has, by reason. Beyond 1,000 groups, the rest is one group."""
    groups: dict[tuple[str, str, str], _Group] = {}
    async with aclosing(read_letters(conn, stream, types, options)) as letters:
        n_read = 0
        async for letter in letters:
            key = (letter.stream, letter.subscription, letter.reason)
            if key not in groups and len(groups) == MAX_GROUPS:
                key = ("", "(others)", "")
            group = groups.setdefault(key, _Group(first=letter.time))
            group.letters += 1
            group.last, group.last_error = letter.time, letter.error
            n_read += 1
            if n_read == limit:
                break
    if as_json:
        for (of_stream, subscription, reason), group in sorted(groups.items()):
            print_json(
                {
                    "stream": of_stream,
                    "subscription": subscription,
                    "reason": reason,
                    "letters": group.letters,
                    "first_time": time_text(group.first),
                    "last_time": time_text(group.last),
                    "last_error": group.last_error,
                }
            )
    elif groups:
        _print_summary(groups, stream)
    else:
        click.echo("no dead letters", err=True)


_GROUPS = (
    Column("subscription", is_name=True),
    Column("reason"),
    Column("letters", right=True),
    Column("oldest", drop=3),
    Column("newest", drop=2),
    Column("last error", elastic=40),
)


def _print_summary(groups: Mapping[tuple[str, str, str], _Group], stream: str) -> None:
    rows = []
    for (of_stream, subscription, reason), group in sorted(groups.items()):
        other = "" if of_stream in ("", stream) else f" of {of_stream}"
        texts = [
            f"{subscription or '-'}{other}",
            reason or "no letter",
            f"{group.letters:,}",
            _age(group.first),
            _age(group.last),
            group.last_error,
        ]
        rows.append([safe(text) for text in texts])
    print_rows(_GROUPS, rows)
