"""Shows what streams and subscriptions do now: a live table, tables one after the other, or lines of JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import click
from rich.live import Live
from rich.table import Table
from rich.text import Text

import eda
from eda.cli.lookup import run_on_known
from eda.cli.output import console, print_json, safe, time_text
from eda.cli.sub_list import age_text, members_text, rounded
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
                live.update(_table(rates.rows(look)), refresh=True)
            while True:
                await asyncio.sleep(max(interval_s, MIN_INTERVAL_S))
                look = await take_look(conn, streams, n_streams, look)
                rows = rates.rows(look)
                if live is not None:
                    live.update(_table(rows), refresh=True)
                elif as_json:
                    _print_lines(rows)
                else:
                    _print_table(rows)
                if once:
                    return

    run_on_known(server, work)


def _print_table(rows: list[StreamRow]) -> None:
    if rows:
        console().print(_table(rows))
    else:
        click.echo("the server has no streams", err=True)


def _table(rows: list[StreamRow]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stream, subscription", overflow="fold")
    for title in ("in/s", "out/s", "lag", "age", "trend", "redel.", "dead"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("members", overflow="fold")
    for row in rows:
        dead = f"{row.dead:,}" + (f" +{row.dead_added:,}" if row.dead_added else "")
        table.add_row(
            Text(safe(row.info.name), "bold"),
            _rate(row.in_s),
            "",
            "",
            "",
            "",
            "",
            Text(dead, "red" if row.dead_added else "") if row.dead or row.dead_added else "",
            "",
        )
        for each in row.subscriptions:
            table.add_row(*_cells(each))
    return table


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
