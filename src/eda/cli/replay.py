"""`eda replay` and its options."""

from __future__ import annotations

import re
from typing import Any

import click

from eda.cli.options import lines_option, server_options
from eda.cli.places import Chosen, choosing_options
from eda.cli.values import DURATION

__all__ = ["replay"]

MAX_SPEED = 1e9
MIN_SPEED = 1e-6

_SPEED = re.compile(r"(\d+(?:\.\d+)?)x?", re.ASCII)


class _Speed(click.ParamType):  # type: ignore[type-arg]  # generic in new versions only
    """A speed such as 1, 0.5 or 10x; 0 means "max": as fast as possible."""

    name = "speed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip().lower()
        if text == "max":
            return 0.0
        match = _SPEED.fullmatch(text)
        if match is None or not MIN_SPEED <= float(match[1]) <= MAX_SPEED:
            self.fail(f"{value!r} is not a speed: write 1, 0.5, 10x or max", param, ctx)
        return float(match[1])


@click.command()
@click.argument("source")
@click.option("--into", "target", metavar="STREAM", help="The stream to publish into.  [default: print the events]")
@choosing_options
@click.option(
    "--speed",
    type=_Speed(),
    default="1",
    show_default=True,
    metavar="FACTOR",
    help="How fast time passes: 1 as it was, 10 ten times as fast, 0.5 half as fast, max without any wait.",
)
@click.option("--max-wait", type=DURATION, metavar="DURATION", help="The longest wait between two events.")
@click.option("--new-ids", is_flag=True, help="Give each event a new id.")
@lines_option
@server_options
def replay(
    source: str,
    target: str | None,
    chosen: Chosen,
    speed: float,
    max_wait: float | None,
    new_ids: bool,
    as_json: bool,
    **server: Any,
) -> None:
    """Publish the events of SOURCE again into another stream, with the time between them as it was.

    The time between two events is that between their storing, divided by the speed. Without --into, the command prints
    the events as lines of JSON, with the fields that `eda tail` prints. It replays what SOURCE has when it begins, and
    changes nothing there.

    An event keeps all that a copy keeps (see `eda copy`), also its time and its id. So a stream that has stored an id
    within its duplicate window does not store the event again; the command says how many there were. With --new-ids,
    each event gets a new id, and SOURCE itself may be the target. The causes of events stay as they are: they name the
    old ids.

    To publish dead letters again, use `eda dead replay`.

    If you interrupt it, it waits for the answers to what it has sent, and prints where to continue.

    With --into and --json, the command prints one object with the fields of `eda copy`.

    The exit code is 0 if all events are stored (or printed), or 1 if some were refused, were duplicates, or are not
    events, or 2 if the work could not be done.
    """
    from eda.cli.replaying import ReplayOptions, print_events, replay_events
    from eda.cli.session import run_with_conn

    options = ReplayOptions(
        chosen=chosen,
        speed=speed or None,
        longest_s=max_wait,
        new_ids=new_ids,
        as_json=as_json,
    )
    if target is None:
        if new_ids:
            raise click.UsageError("--new-ids needs --into: printed events keep their ids.")
        run_with_conn(server, lambda conn: print_events(conn, source, options))
        return
    into = target
    if not run_with_conn(server, lambda conn: replay_events(conn, source, into, options)):
        raise click.exceptions.Exit(1)
