"""`eda views ls`: reads the versions of read models, and prints them as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import click
from rich.text import Text

from eda.amounts import duration_text
from eda.cli.output import safe, time_text
from eda.cli.session import connection
from eda.cli.tables import Column, print_rows
from eda.cli.view_lag import StreamLag, VersionLag, lag_of
from eda.cli.view_sink import opened_sink

__all__ = ["list_versions", "print_json", "print_table"]


async def list_versions(into: str, name: str | None, server: dict[str, Any]) -> list[VersionLag]:
    """Return the versions of one read model or of all of them. Raises EdaError, DatabaseFailed."""
    async with opened_sink(into) as sink:
        versions = await sink.versions(name)
    if not versions:
        return []
    async with connection(server, client="eda-views") as conn:
        return [await lag_of(conn, version) for version in versions]


def print_json(versions: Iterable[VersionLag]) -> None:
    """Print one JSON object a line for each version."""
    for each in versions:
        fields = {
            "name": each.name,
            "version": each.version,
            "current": each.is_current,
            "updated": time_text(each.updated),
            "lag": each.lag,
            "lag_s": _rounded(each.lag_s),
            "streams": [_stream_fields(stream) for stream in each.streams],
        }
        click.echo(json.dumps(fields))


def _stream_fields(stream: StreamLag) -> dict[str, Any]:
    return {
        "stream": stream.stream,
        "position": stream.position,
        "last": stream.last,
        "lag": stream.lag,
        "lag_s": _rounded(stream.lag_s),
        "lanes": stream.lanes,
        "updated": time_text(stream.updated),
        "problem": stream.problem,
    }


_COLUMNS = (
    Column("name", is_name=True),
    Column("version"),
    Column("stream", is_name=True),
    Column("position", right=True, drop=1),
    Column("behind", right=True),
    Column("lanes", right=True, drop=3),
    Column("written", drop=2),
)


def print_table(versions: Iterable[VersionLag]) -> None:
    """Print a line for each version and stream."""
    now = datetime.now(UTC)
    rows: list[list[str | Text]] = []
    for version in versions:
        for stream in version.streams:
            behind = safe(stream.problem) if stream.problem else _behind(stream)
            updated = stream.updated
            rows.append(
                [
                    safe(version.name),
                    f"{version.version}{' (current)' if version.is_current else ''}",
                    safe(stream.stream),
                    str(stream.position),
                    Text(behind, "red" if stream.problem else ""),
                    str(stream.lanes),
                    "closed" if updated is None else f"{duration_text((now - updated).total_seconds())} ago",
                ]
            )
    if rows:
        print_rows(_COLUMNS, rows)
    else:
        click.echo("the database has no read models", err=True)


def _behind(stream: StreamLag) -> str:
    if not stream.lag:
        return "0"
    return f"{stream.lag:,}" + ("" if stream.lag_s is None else f" ({duration_text(stream.lag_s)})")


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
