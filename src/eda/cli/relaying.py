"""Runs the relay of an outbox, and prints what it does."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any
from urllib.parse import unquote

import click

import eda
import eda.sql
from eda.amounts import duration_text
from eda.cli.option_names import told
from eda.cli.session import connection
from eda.errors import EdaError

__all__ = ["RelayFailed", "run_relay"]

EVERY_S = 5.0
STANDBY = "another relay is active; this one stands by"


class RelayFailed(Exception):
    """The relay has ended, or could not begin. The text is one line."""


async def run_relay(into: str, table: str, refused: Any, server: dict[str, Any], *, as_json: bool) -> None:
    """Run a relay until this task is cancelled. Raises RelayFailed."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("nats").setLevel(logging.CRITICAL)  # eda reports what matters
    try:
        outbox = eda.sql.Outbox(eda.sql.from_url(into), table)
        _check_file(into)
        async with connection(server, client="eda-outbox") as conn:
            relay = await conn.relay(outbox, refused=refused)
            printing = asyncio.create_task(_print_often(relay, as_json=as_json))
            try:
                await relay.wait()
            finally:  # a signal cancels the wait
                printing.cancel()
                await relay.close()
                _print(relay.stats(), as_json=as_json)
    except (RelayFailed, OSError):
        raise
    except EdaError as error:
        raise RelayFailed(told(error)) from error
    except Exception as error:  # the driver's
        raise RelayFailed(f"{outbox.into.label}: {' '.join(str(error).split())}") from error


async def _print_often(relay: eda.Relay, *, as_json: bool) -> None:
    last: eda.RelayStats | None = None
    while True:
        await asyncio.sleep(0.5 if last is None else EVERY_S)
        stats = relay.stats()
        if as_json or stats != last:
            _print(stats, as_json=as_json)
        last = stats


def _print(stats: eda.RelayStats, *, as_json: bool) -> None:
    if as_json:
        text = json.dumps(asdict(stats))
    elif not stats.active and not stats.sent:
        text = STANDBY
    else:
        text = (
            f"published {stats.acknowledged:,} events; {stats.waiting:,} rows wait, the oldest for "
            f"{duration_text(stats.oldest_s)}; {stats.refused:,} refusals"
        )
        if stats.dead:
            text += f"; {stats.dead:,} rows moved to the dead rows"
    with suppress(BrokenPipeError):
        click.echo(text)


def _check_file(url: str) -> None:
    """Raise RelayFailed if a SQLite database does not exist: a typing error must not make a new one."""
    if url.lower().startswith("sqlite:///"):
        path = unquote(url[len("sqlite:///") :])
        if not os.path.isfile(path):
            raise RelayFailed(f"the SQLite database {path} does not exist")
