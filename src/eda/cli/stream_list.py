"""`eda streams ls` and `eda streams info`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click
from rich.table import Table
from rich.text import Text

import eda
from eda.amounts import duration_text, size_text
from eda.cli.ending import print_to_end
from eda.cli.failure import Failure
from eda.cli.lookup import run_on_known
from eda.cli.output import console, print_json, safe, time_text
from eda.cli.session import run_with_conn
from eda.cli.sub_list import print_subs, sub_fields
from eda.cli.tables import Column, print_rows

__all__ = ["details_of", "print_details", "show_stream", "show_streams", "stream_fields"]


# Which events a stream removes, if not only those beyond its limits.
_RETENTION = {
    "interest": "interest: an event is removed when all consumers have acknowledged it",
    "workqueue": "workqueue: an event is removed when a consumer has acknowledged it",
}


_COLUMNS = (
    Column("name", is_name=True),
    Column("events", right=True),
    Column("size", right=True, drop=1),
    Column("last", right=True, drop=4),
    Column("last event", right=True, drop=3),
    Column("kind", elastic=20, drop=2),
)


def stream_fields(info: eda.StreamInfo) -> dict[str, Any]:
    """Return the fields of a stream in the output of `streams ls`."""
    return {
        "name": info.name,
        "events": info.events,
        "bytes": info.bytes,
        "first_sequence": info.first_sequence,
        "last_sequence": info.last_sequence,
        "first_time": time_text(_time(info.first_time_ns)),
        "last_time": time_text(_time(info.last_time_ns)),
        "created": time_text(info.created),
        "storage": info.options.storage,
        "replicas": info.options.replicas,
        "retention": info.retention,
        "packed": info.options.packed,
        "store": info.options.store,
        "consumers": info.consumers,
    }


def details_of(info: eda.StreamInfo, subscriptions: list[eda.SubscriptionInfo]) -> dict[str, Any]:
    """Return the fields of a stream in the output of `streams info`."""
    options = info.options
    return stream_fields(info) | {
        "subjects": list(info.subjects),
        "max_age_s": options.max_age_s,
        "max_bytes": options.max_bytes,
        "max_events": options.max_events,
        "dedup_window_s": options.dedup_window_s,
        "compression": options.compression,
        "discard": options.discard,
        "atomic": info.atomic,
        "fast_ingest": info.fast_ingest,
        "mirror": info.mirror,
        "sources": list(info.sources),
        "no_ack": info.no_ack,
        "sealed": info.sealed,
        "deny_delete": info.deny_delete,
        "deny_purge": info.deny_purge,
        "max_events_per_subject": info.max_events_per_subject,
        "max_event_bytes": info.max_event_bytes,
        "max_consumers": info.max_consumers,
        "subscriptions": [sub_fields(each) for each in subscriptions],
    }


def show_streams(server: Mapping[str, Any], *, as_json: bool) -> None:
    """Print all streams."""

    async def work(conn: eda.Conn) -> list[eda.StreamInfo]:
        return await conn.streams.list()

    found = run_with_conn(server, work)

    def show() -> None:
        if as_json:
            for each in found:
                print_json(stream_fields(each))
        elif found:
            _print_table(found)
        else:
            click.echo("the server has no streams", err=True)

    print_to_end(show, Failure)


def show_stream(server: Mapping[str, Any], name: str, *, as_json: bool) -> None:
    """Print one stream with its subscriptions. Raises NotThere."""

    async def work(conn: eda.Conn) -> dict[str, Any]:
        return details_of(await conn.streams.info(name), await conn.subscriptions(name))

    print_details(run_on_known(server, work), as_json=as_json)


def print_details(found: dict[str, Any], *, as_json: bool) -> None:
    """Print a stream with its settings."""
    print_to_end(lambda: print_json(found) if as_json else _print_details(found), Failure)


def _print_table(found: list[eda.StreamInfo]) -> None:
    now = datetime.now(UTC)
    rows = []
    for each in found:
        last = _time(each.last_time_ns)
        rows.append(
            (
                safe(each.name),
                f"{each.events:,}",
                size_text(each.bytes),
                f"{each.last_sequence:,}",
                f"{duration_text((now - last).total_seconds())} ago" if last is not None else "-",
                ", ".join(_kind(each)),
            )
        )
    print_rows(_COLUMNS, rows)


def _kind(info: eda.StreamInfo) -> list[str]:
    """Return the words that tell a stream from a usual one."""
    options = info.options
    words: list[str] = [options.storage]
    words += [f"{options.replicas} replicas"] if options.replicas > 1 else []
    words += [info.retention] if info.retention != "limits" else []
    words += ["packed"] if options.packed else []
    words += ["event store"] if options.store else []
    words += [f"mirror of {safe(info.mirror)}"] if info.mirror else []
    words += ["sealed"] if info.sealed else []
    return words


def _print_details(fields: dict[str, Any]) -> None:
    lines: list[tuple[str, str]] = [
        ("stream", safe(fields["name"])),
        ("created", fields["created"]),
        ("subjects", ", ".join(map(safe, fields["subjects"])) or "none"),
        ("holds", f"{fields['events']:,} messages, {size_text(fields['bytes'])}"),
    ]
    if fields["events"]:
        lines.append(("first event", f"{fields['first_sequence']:,}, stored at {fields['first_time']}"))
    if fields["last_time"] is not None:
        lines.append(("last event", f"{fields['last_sequence']:,}, stored at {fields['last_time']}"))
    replicas = fields["replicas"]
    lines += [
        ("storage", f"{fields['storage']}, {replicas} {'replica' if replicas == 1 else 'replicas'}"),
        ("limits", _limits(fields)),
        ("allows", _allowed(fields)),
        ("duplicates", f"recognised for {duration_text(fields['dedup_window_s'])}"),
    ]
    if fields["retention"] != "limits":
        lines.append(("retention", safe(_RETENTION.get(fields["retention"], fields["retention"]))))
    if fields["mirror"]:
        lines.append(("mirror of", safe(fields["mirror"])))
    if fields["sources"]:
        lines.append(("filled from", ", ".join(map(safe, fields["sources"]))))
    refused = [name for name in ("no_ack", "sealed", "deny_delete", "deny_purge") if fields[name]]
    if refused:
        lines.append(("settings", ", ".join(refused)))
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in lines:
        table.add_row(label, Text(text))
    console().print(table)
    if fields["subscriptions"]:
        click.echo()
        print_subs(fields["subscriptions"], with_stream=False)


def _limits(fields: dict[str, Any]) -> str:
    limits = []
    if fields["max_age_s"] is not None:
        limits.append(f"{duration_text(fields['max_age_s'])} of age")
    if fields["max_bytes"] is not None:
        limits.append(size_text(fields["max_bytes"]))
    if fields["max_events"] is not None:
        limits.append(f"{fields['max_events']:,} messages")
    if fields["max_events_per_subject"] is not None:
        limits.append(f"{fields['max_events_per_subject']:,} messages of each subject")
    if fields["max_event_bytes"] is not None:
        limits.append(f"{size_text(fields['max_event_bytes'])} a message")
    when_full = "old events are removed" if fields["discard"] == "old" else "new events are refused"
    return f"{', '.join(limits)}; {when_full}" if limits else "none"


def _allowed(fields: dict[str, Any]) -> str:
    words = {
        "atomic": "atomic batches",
        "fast_ingest": "fast ingest",
        "packed": "packs",
        "store": "appends of event stores only",
    }
    return ", ".join(text for name, text in words.items() if fields[name]) or "single events"


def _time(time_ns: int) -> datetime | None:
    return datetime.fromtimestamp(time_ns / 1e9, UTC) if time_ns else None
