"""Shows what streams and subscriptions do now: a live table, tables one after the other, or lines of JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import click
from rich.live import Live
from rich.text import Text

import eda
from eda.cli.lookup import run_on_known
from eda.cli.output import console, print_json, safe, time_text
from eda.cli.sub_list import age_text, members_text, rounded
from eda.cli.tables import Column, lines_of, print_rows
from eda.cli.top_rates import Rates, StreamRow, SubscriptionRow, take_look

__all__ = ["show_top"]

MIN_INTERVAL_S = 0.1


def show_top(
    server: Mapping[str, Any],
    streams: tuple[str, ...],
    *,
    n_streams: int,
    interval_s: float,
    once: bool,
    as_json: bool,
) -> None:
    """Look at the server again and again, and show what has changed, until the command is interrupted."""

    async def work(conn: eda.Conn) -> None:
        screen = console()
        is_live = screen.is_terminal and not as_json and not once
        look = await take_look(conn, streams, n_streams, None)
        rates = Rates(look)
        live = Live(console=screen, auto_refresh=False, screen=True) if is_live else None
        with live or nullcontext():
            if live is not None:
                live.update(_shown(rates.rows(look), screen.width), refresh=True)
            while True:
                await asyncio.sleep(max(interval_s, MIN_INTERVAL_S))
                look = await take_look(conn, streams, n_streams, look)
                rows = rates.rows(look)
                if live is not None:
                    live.update(_shown(rows, screen.width), refresh=True)
                elif as_json:
                    _print_lines(rows)
                else:
                    _print_table(rows)
                if once:
                    return

    run_on_known(server, work)


_COLUMNS = (
    Column("stream, subscription", is_name=True),
    Column("in/s", right=True),
    Column("out/s", right=True),
    Column("lag", right=True),
    Column("age", right=True),
    Column("trend", right=True, drop=1),
    Column("redel.", right=True, drop=2),
    Column("dead", right=True),
    Column("members", elastic=20, drop=3),
)


def _print_table(rows: list[StreamRow]) -> None:
    if rows:
        print_rows(_COLUMNS, _rows(rows))
    else:
        click.echo("the server has no streams", err=True)


def _shown(rows: list[StreamRow], width: int) -> Text:
    return Text("\n").join(lines_of(_COLUMNS, _rows(rows), width))


def _rows(rows: list[StreamRow]) -> list[list[Text | str]]:
    cells: list[list[Text | str]] = []
    for row in rows:
        dead = f"{row.dead:,}" + (f" +{row.dead_added:,}" if row.dead_added else "")
        shown = Text(dead, "red" if row.dead_added else "") if row.dead or row.dead_added else ""
        cells.append([Text(safe(row.info.name), "bold"), _rate(row.in_s), "", "", "", "", "", shown, ""])
        cells += [_cells(each) for each in row.subscriptions]
    return cells


def _cells(row: SubscriptionRow) -> list[Text | str]:
    info = row.info
    grows = row.trend_s is not None and row.trend_s > 0
    lag = "unknown" if info.lag is None else f"{info.lag:,}"
    redelivered = "" if info.redelivered is None else f"{info.redelivered:,}"
    return [
        Text("  " + safe(info.name)),
        "",
        _rate(row.out_s),
        Text(lag, "yellow" if grows and info.lag else ""),
        age_text(info.lag, info.lag_s),
        Text(_trend(row.trend_s), "yellow" if grows else ""),
        Text(redelivered, "yellow" if info.redelivered else ""),
        "",
        Text(members_text(info), "" if info.is_active or not info.lag else "red"),
    ]


def _rate(per_s: float | None) -> str:
    if per_s is None:
        return "-"
    return f"{per_s:,.0f}" if per_s >= 10 or per_s == 0 else f"{per_s:.1f}"


def _trend(per_s: float | None) -> str:
    if per_s is None:
        return "-"
    if abs(per_s) < 0.05:
        return "="
    return f"{per_s:+,.0f}/s" if abs(per_s) >= 10 else f"{per_s:+.1f}/s"


def _print_lines(rows: list[StreamRow]) -> None:
    now = time_text(datetime.now(UTC))
    for row in rows:
        print_json(
            {
                "time": now,
                "row": "stream",
                "stream": row.info.name,
                "in_s": rounded(row.in_s),
                "events": row.info.events,
                "dead": row.dead,
                "dead_added": row.dead_added,
            }
        )
        for each in row.subscriptions:
            info = each.info
            print_json(
                {
                    "time": now,
                    "row": "subscription",
                    "stream": info.stream,
                    "name": info.name,
                    "kind": info.kind,
                    "out_s": rounded(each.out_s),
                    "position": info.position,
                    "lag": info.lag,
                    "lag_s": rounded(info.lag_s),
                    "trend_s": rounded(each.trend_s),
                    "holder": info.holder,
                    "in_flight": info.in_flight,
                    "redelivered": info.redelivered,
                    "active": info.is_active,
                }
            )
