"""Shows how far subscriptions are behind, once or again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import click
from rich.text import Text

import eda
from eda.cli.lookup import run_on_known
from eda.cli.output import console, print_json, safe, time_text
from eda.cli.sub_list import age_text, rounded
from eda.cli.tables import Column, lines_of, print_rows

__all__ = ["read_subscriptions", "show_lag"]

MIN_INTERVAL_S = 0.1
N_AT_ONCE = 4  # streams that are read at the same time


async def read_subscriptions(
    conn: eda.Conn, streams: Iterable[str], *, may_vanish: bool = False
) -> list[eda.SubscriptionInfo]:
    """Return the subscriptions of the streams; of all, if none is given. Standbys are not counted.

    `may_vanish`: leave out a stream that does not exist any more, rather than raise StreamNotFound.
    """
    names = list(dict.fromkeys(streams))
    if not names:
        return await conn.subscriptions(standbys=False)
    limit = asyncio.Semaphore(N_AT_ONCE)

    async def read(name: str) -> list[eda.SubscriptionInfo]:
        async with limit:
            try:
                return await conn.subscriptions(name, standbys=False)
            except eda.StreamNotFound:
                if not may_vanish:
                    raise
                return []

    found = await asyncio.gather(*map(read, names))
    return [each for of_stream in found for each in of_stream]


def show_lag(
    server: Mapping[str, Any],
    streams: tuple[str, ...],
    *,
    most: int | None,
    most_s: float | None,
    interval_s: float | None,
    as_json: bool,
) -> None:
    """Print the lags; with an interval, again and again. Raises Exit (1) if one is above a limit."""

    def is_ok(each: eda.SubscriptionInfo) -> bool:
        if most is None and most_s is None:
            return True
        if each.lag is None:
            return False
        return (most is None or each.lag <= most) and (most_s is None or (each.lag_s or 0.0) <= most_s)

    async def once(conn: eda.Conn) -> bool:
        found = await read_subscriptions(conn, streams)
        _print(found, is_ok, as_json=as_json)
        return all(map(is_ok, found))

    async def watch(conn: eda.Conn) -> bool:
        assert interval_s is not None
        screen = console()
        is_live = screen.is_terminal and not as_json
        live: Live | None = None
        if is_live:
            from rich.live import Live  # only a terminal needs it

            live = Live(console=screen, auto_refresh=False, screen=True)
        with live or nullcontext():
            while True:
                found = await read_subscriptions(conn, streams)
                if live is None:
                    _print(found, is_ok, as_json=as_json)
                else:
                    live.update(Text("\n").join(lines_of(*_rows(found, is_ok), screen.width)), refresh=True)
                await asyncio.sleep(max(interval_s, MIN_INTERVAL_S))

    if not run_on_known(server, once if interval_s is None else watch):
        raise click.exceptions.Exit(1)


def _print(found: list[eda.SubscriptionInfo], is_ok: Any, *, as_json: bool) -> None:
    if as_json:
        now = time_text(datetime.now(UTC))
        for each in _worst_first(found):
            print_json(
                {
                    "time": now,
                    "stream": each.stream,
                    "name": each.name,
                    "kind": each.kind,
                    "position": each.position,
                    "lag": each.lag,
                    "lag_s": rounded(each.lag_s),
                    "active": each.is_active,
                    "ok": is_ok(each),
                }
            )
    elif found:
        print_rows(*_rows(found, is_ok))
    else:
        click.echo("there are no kept subscriptions", err=True)


_COLUMNS = (
    Column("stream", is_name=True),
    Column("subscription", is_name=True),
    Column("kind", drop=2),
    Column("position", right=True, drop=3),
    Column("lag", right=True),
    Column("age", right=True),
    Column("members", drop=1),
    Column("limit"),
)


def _rows(found: list[eda.SubscriptionInfo], is_ok: Any) -> tuple[tuple[Column, ...], list[list[str | Text]]]:
    """Return the columns and the cells. There is a column for the limit only if one is exceeded."""
    columns = _COLUMNS[:-1] if all(map(is_ok, found)) else _COLUMNS
    rows: list[list[str | Text]] = []
    for each in _worst_first(found):
        style = "" if is_ok(each) else "red"
        cells: list[str | Text] = [
            safe(each.stream),
            safe(each.name),
            each.kind,
            f"{each.position:,}",
            Text("unknown" if each.lag is None else f"{each.lag:,}", style),
            Text(age_text(each.lag, each.lag_s), style),
            "active" if each.is_active else Text("none", "yellow" if each.lag else ""),
            Text("" if is_ok(each) else "over", style),
        ]
        rows.append(cells[: len(columns)])
    return columns, rows


def _worst_first(found: list[eda.SubscriptionInfo]) -> list[eda.SubscriptionInfo]:
    def badness(each: eda.SubscriptionInfo) -> tuple[bool, float, int, str, str]:
        return each.lag is not None, -(each.lag_s or 0.0), -(each.lag or 0), each.stream, each.name

    return sorted(found, key=badness)
