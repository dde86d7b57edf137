"""How kept subscriptions are printed: as a table, as JSON, or one with all its settings."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import click
from rich.table import Table
from rich.text import Text

import eda
from eda.amounts import duration_text
from eda.cli.ending import print_to_end
from eda.cli.failure import Failure
from eda.cli.lookup import NotThere, run_on_known
from eda.cli.output import console, print_json, safe, time_text
from eda.cli.tables import Column, print_rows

__all__ = [
    "age_text",
    "lag_text",
    "members_text",
    "no_subscription",
    "print_subs",
    "rounded",
    "show_sub",
    "show_subs",
    "sub_fields",
]


_COLUMNS = (
    Column("stream", is_name=True),
    Column("name", is_name=True),
    Column("kind", drop=2),
    Column("position", right=True, drop=1),
    Column("lag", right=True),
    Column("age", right=True),
    Column("members", elastic=20),
    Column("redel.", right=True, drop=3),
    Column("updated", drop=4),
)

COUNT_S = 2.0  # the longest time in which dead letters are counted
_RANDOM = re.compile(r"(?<=.)-[A-Za-z0-9]{22}$")  # at the end of a holder


def sub_fields(each: eda.SubscriptionInfo) -> dict[str, Any]:
    """Return the fields of a subscription in the output of `subs ls`."""
    return {
        "name": each.name,
        "kind": each.kind,
        "stream": each.stream,
        "position": each.position,
        "lag": each.lag,
        "lag_s": rounded(each.lag_s),
        "holder": each.holder,
        "standbys": each.standbys,
        "in_flight": each.in_flight,
        "redelivered": each.redelivered,
        "updated": time_text(each.updated),
        "active": each.is_active,
    }


def rounded(seconds: float | None) -> float | None:
    """Return a duration in whole milliseconds."""
    return None if seconds is None else round(seconds, 3)


def no_subscription(stream: str, name: str) -> NotThere:
    """Return the error for a subscription that the server does not know."""
    return NotThere(
        f"stream {stream!r} has no kept subscription {name!r}. (Projections keep their positions in their database: "
        "see `eda views ls`.)"
    )


def show_subs(server: Mapping[str, Any], stream: str | None, *, as_json: bool) -> None:
    """Print the subscriptions of one stream or of all. Raises NotThere if there is no such stream."""

    async def work(conn: eda.Conn) -> list[eda.SubscriptionInfo]:
        return await conn.subscriptions(stream)

    found = [sub_fields(each) for each in run_on_known(server, work)]

    def show() -> None:
        if as_json:
            for each in found:
                print_json(each)
        elif found:
            print_subs(found, with_stream=stream is None)
        else:
            where = "the streams have" if stream is None else f"stream {safe(stream)!r} has"
            click.echo(f"{where} no kept subscriptions", err=True)

    print_to_end(show, Failure)


def print_subs(found: Iterable[Mapping[str, Any]], *, with_stream: bool) -> None:
    """Print a table of subscriptions, given their fields."""
    now = datetime.now(UTC)
    columns = _COLUMNS if with_stream else _COLUMNS[1:]
    print_rows(columns, [_cells(each, now)[-len(columns) :] for each in found])


def _cells(each: Mapping[str, Any], now: datetime) -> tuple[str | Text, ...]:
    return (
        safe(each["stream"]),
        safe(each["name"]),
        each["kind"],
        f"{each['position']:,}",
        Text("unknown", "yellow") if each["lag"] is None else f"{each['lag']:,}",
        age_text(each["lag"], each["lag_s"]),
        _members(each),
        "-" if each["redelivered"] is None else f"{each['redelivered']:,}",
        _ago(each["updated"], now),
    )


def lag_text(lag: int | None, lag_s: float | None) -> str:
    """Return how far a subscription is behind: 0, or 1,234 (5 min)."""
    if lag is None:
        return "unknown"
    return f"{lag:,}" + (f" ({duration_text(lag_s)})" if lag and lag_s is not None else "")


def age_text(lag: int | None, lag_s: float | None) -> str:
    """Return the age of the oldest event that is not done; "-" if there is none, or if it is unknown."""
    return duration_text(lag_s) if lag and lag_s is not None else "-"


def members_text(each: eda.SubscriptionInfo) -> str:
    """Return who gets events: whether members of a shared subscription are attached; holder and standbys."""
    return _members(sub_fields(each))


def _members(each: Mapping[str, Any]) -> str:
    """Return who gets events."""
    if each["kind"] == "shared":
        words = ["attached" if each["active"] else "none"]
        return ", ".join(words + ([f"{each['in_flight']:,} in flight"] if each["in_flight"] else []))
    if each["holder"] is None:
        return "none"
    # The client's name tells more than the random part behind it, which `subs info` shows.
    text = safe(_RANDOM.sub("", each["holder"])) + ("" if each["active"] else " (silent)")
    n = each["standbys"]
    return text + (f" + {n} {'standby' if n == 1 else 'standbys'}" if n else "")


def _ago(time: str | None, now: datetime) -> str:
    if time is None:
        return "never"
    return f"{duration_text((now - datetime.fromisoformat(time)).total_seconds())} ago"


# --- one -------------------------------------------------------------------------------------------------------------


def show_sub(server: Mapping[str, Any], stream: str, name: str, *, as_json: bool) -> None:
    """Print one subscription with its settings. Raises NotThere."""

    async def work(conn: eda.Conn) -> dict[str, Any] | None:
        found = await conn.subscription(stream, name)
        if found is None:
            return None
        n_dead, is_complete = await _dead_letters(conn, stream, name)
        return _detail_fields(found) | {"dead": n_dead, "dead_complete": is_complete}

    fields = run_on_known(server, work)
    if fields is None:
        raise no_subscription(stream, name)
    print_to_end(lambda: print_json(fields) if as_json else _print_details(fields), Failure)


async def _dead_letters(conn: eda.Conn, stream: str, name: str) -> tuple[int, bool]:
    """Return how many dead letters of the subscription were found in time, and whether all were looked at."""
    n_found = 0
    try:
        async with asyncio.timeout(COUNT_S):
            async for _ in conn.dead_letters(stream, name):
                n_found += 1
    except eda.StreamNotFound:
        return 0, True  # no event was given up yet
    except TimeoutError:
        return n_found, False
    return n_found, True


def _detail_fields(found: eda.SubscriptionDetails) -> dict[str, Any]:
    return sub_fields(found.info) | {
        "done": found.done,
        "filter": list(found.filter),
        "stream_created": time_text(found.stream_created),
        "epoch": found.epoch,
        "tries": found.tries,
        "created": time_text(found.created),
        "made_by": found.made_by,
        "lease_s": found.lease_s,
        "max_ack_pending": found.max_ack_pending,
        "max_deliver": found.max_deliver,
        "durable": found.is_durable,
        "filtered_by_server": found.is_filtered_by_server,
        "pulls": found.pulls,
        "paused_until": time_text(found.paused_until),
    }


def _print_details(fields: dict[str, Any]) -> None:
    now = datetime.now(UTC)
    lines: list[tuple[str, str]] = [
        ("subscription", f"{safe(fields['name'])} of stream {safe(fields['stream'])}, {fields['kind']}"),
        ("last done", fields["done"]),
        ("lag", lag_text(fields["lag"], fields["lag_s"])),
        ("members", _members(fields)),
        *([("holder", safe(fields["holder"]))] if fields["holder"] is not None else []),
        ("updated", _ago(fields["updated"], now)),
        ("filter", ", ".join(map(safe, fields["filter"])) or "none: it gets all events"),
        ("dead letters", f"{fields['dead']:,}" + ("" if fields["dead_complete"] else " or more")),
    ]
    lines += _ordered_lines(fields) if fields["kind"] == "ordered" else _shared_lines(fields)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in lines:
        table.add_row(label, Text(text))
    console().print(table)


def _ordered_lines(fields: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("takeovers", f"{fields['epoch']:,}")]
    if fields["tries"]:
        lines.append(("vanished", f"{fields['tries']} holders in a row have vanished at this position"))
    if fields["lag"] is None:
        lines.append(("problem", "the stream was made again since: the next member starts as its options say"))
    return lines


def _shared_lines(fields: dict[str, Any]) -> list[tuple[str, str]]:
    if fields["lease_s"] is None:
        return [("consumer", "none: the next member makes it, and starts at the moved position")]
    lines = [
        ("in flight", f"{fields['in_flight']:,}, of which {fields['redelivered']:,} were delivered before"),
        ("lease", duration_text(fields["lease_s"])),
        ("at most", f"{fields['max_ack_pending']:,} in flight"),
        ("open pulls", str(fields["pulls"])),
        ("made", f"at {fields['created']} by {safe(fields['made_by'] or 'another program')}"),
    ]
    if fields["filter"]:
        lines.append(("filtered by", "the server" if fields["filtered_by_server"] else "the members"))
    if not fields["durable"]:
        lines.append(("kept", "only while it has members: it is not durable"))
    if fields["max_deliver"] > 0:
        lines.append(("problem", f"the server gives an event up after {fields['max_deliver']} deliveries"))
    if fields["paused_until"] is not None:
        lines.append(("problem", f"somebody has paused it until {fields['paused_until']}"))
    return lines
