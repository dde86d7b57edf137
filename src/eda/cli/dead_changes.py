"""`eda dead replay` and `eda dead drop`."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import click

import eda
from eda.cli.dead_list import read_letters
from eda.cli.output import print_json, safe

__all__ = ["chosen_letters", "drop_letters", "replay_letters"]

AT_ONCE = 10_000  # how many letters one call of `drop_dead` removes


async def replay_letters(conn: eda.Conn, stream: str, name: str, options: Mapping[str, Any], as_json: bool) -> bool:
    """Replay the letters of a subscription, and print how many. Return whether there were some and none stayed."""
    dead_letter, wanted = options["dead_letter"], options["sequences"]
    where = dead_letter or f"{stream}-dead"
    before = await chosen_letters(conn, stream, {"name": name, "sequences": wanted, "dead_letter": dead_letter})
    if missing := sorted({*(wanted or ())} - {*before}):
        listed = ", ".join(map(str, missing[:10])) + (" …" if len(missing) > 10 else "")
        raise eda.ConfigError(f"stream {where!r} has no dead letter of {name!r} with the sequence {listed}")
    n_replayed = await conn.replay_dead(stream, name, **options) if before else 0
    stayed: int | None = None
    if options["limit"] is None:
        chosen = {"name": name, "sequences": wanted, "dead_letter": dead_letter}
        # A letter that was stored meanwhile did not stay: the event has failed again.
        last = max(before, default=0)
        stayed = sum(sequence <= last for sequence in await chosen_letters(conn, stream, chosen)) if before else 0
    if not before:
        click.echo(f"stream {stream} has no dead letters of subscription {safe(name)}", err=True)
    if as_json:
        print_json({"stream": stream, "subscription": name, "replayed": n_replayed, "stayed": stayed})
    else:
        click.echo(f"{n_replayed:,} replayed to {safe(name)}")
        if stayed:
            click.echo(
                f"{stayed:,} stayed in {safe(where)}: they can't be replayed. `eda dead ls` shows them.", err=True
            )
    return bool(before) and not stayed


async def chosen_letters(conn: eda.Conn, stream: str, options: Mapping[str, Any]) -> array[int]:
    """Return the sequences of the chosen letters. Each takes 8 bytes of memory."""
    found = array("Q")
    async with aclosing(read_letters(conn, stream, frozenset(), options)) as letters:
        async for letter in letters:
            found.append(letter.sequence)
    return found


async def drop_letters(
    conn: eda.Conn, stream: str, sequences: array[int], dead_letter: str | None, as_json: bool
) -> None:
    """Remove these letters, and print how many. If this fails or is interrupted, say how many may be removed."""
    n_dropped, part = 0, []
    try:
        for at in range(0, len(sequences), AT_ONCE):
            part = sequences[at : at + AT_ONCE].tolist()
            n_dropped += await conn.drop_dead(stream, sequences=part, dead_letter=dead_letter)
    except (Exception, asyncio.CancelledError):
        most = n_dropped + len(part)
        click.echo(f"{n_dropped:,} to {most:,} of {len(sequences):,} dead letters were dropped", err=True)
        raise
    if as_json:
        print_json({"stream": stream, "dropped": n_dropped})
    else:
        click.echo(f"{n_dropped:,} dropped")
