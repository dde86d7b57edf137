"""`eda dead show`: all of one dead letter."""

from __future__ import annotations

import base64
import json
from typing import Any

import click
from rich.console import Console
from rich.text import Text

import eda
from eda._json_lines import json_lines
from eda.amounts import size_text
from eda.cli.dead_list import fields_of_letter, read_letters
from eda.cli.history import data_text, fields_of
from eda.cli.output import console, safe, time_text
from eda.cli.printable import printable_lines

__all__ = ["show_dead"]

MAX_SHOWN = 64 * 1024  # characters of a payload that are shown to people


async def show_dead(conn: eda.Conn, stream: str, sequence: int, dead_letter: str | None, as_json: bool) -> bool:
    """Print the letter with this sequence. Return whether there is such a message in the dead-letter stream."""
    options = {"sequences": [sequence], "dead_letter": dead_letter, "others": True}
    found = [letter async for letter in read_letters(conn, stream, frozenset(), options)]
    if not found:
        where = dead_letter or f"{stream}-dead"
        click.echo(f"Error: stream {where} has no message with the sequence {sequence}", err=True)
        return False
    if as_json:
        _print_json(found[0])
    else:
        _print_letter(found[0], console())
    return True


def _all_fields(letter: eda.DeadLetter) -> dict[str, Any]:
    return fields_of_letter(letter) | {
        "subject": letter.subject,
        "headers": dict(letter.headers),
        "payload_base64": base64.b64encode(letter.payload).decode(),
    }


def _print_json(letter: eda.DeadLetter) -> None:
    """Print a letter as a line of JSON. Its event is as `eda tail` prints it: the data is as it is stored."""
    fields = json.dumps(_all_fields(letter), allow_nan=False).removesuffix("}")
    event = b"null" if letter.event is None else json_lines([letter.event]).rstrip()
    click.echo(printable_lines(f'{fields}, "event": '.encode() + event + b"}\n"), nl=False)


def _print_letter(letter: eda.DeadLetter, to: Console) -> None:
    event = letter.event
    lines = [("letter", f"{letter.sequence} in {letter.dead_letter}")]
    if letter.is_letter:
        lines += [
            ("subscription", letter.subscription),
            ("reason", letter.reason),
            ("error", letter.error),
            ("attempts", str(letter.attempts or "unknown")),
            ("given up", time_text(letter.time) or "unknown"),
            ("stream", letter.stream),
            ("place", letter.place or "unknown"),
        ]
    else:
        lines.append(("note", "this message is not a dead letter"))
    if letter.subject:
        lines.append(("subject", letter.subject))
    lines += [(f"header {name}", value) for name, value in letter.headers.items()]
    if letter.omitted_bytes:
        lines.append(("payload", f"{size_text(letter.omitted_bytes)}, which were too large for the letter"))
    if event is not None:
        fields = fields_of(event)
        for name in ("type", "aggregate", "id", "time", "cause", "client", "schema"):
            if fields[name]:
                lines.append((f"event {name}", str(fields[name])))
        lines += [(f"event meta {name}", value) for name, value in fields["meta"].items()]
    else:
        lines += [("message id", letter.event_id), ("no event", letter.no_event)]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        if value:
            text = Text(f"{safe(name):<{width}}  ", "bold")
            text.append(safe(value), "red" if name in ("error", "no event") else "not bold")
            to.print(text, soft_wrap=True)
    shown = _shown_data(event) if event is not None else _shown_bytes(letter.payload)
    if shown:
        to.print()
        to.print(Text(shown), soft_wrap=True)


def _shown_data(event: eda.Event) -> str:
    if event.data.type == "nil":
        return ""
    shown = data_text(event, indent=2)
    if shown is None:
        return _shown_bytes(event.data.encode())
    return _cut("\n".join(safe(line) for line in shown[: MAX_SHOWN + 1].split("\n")))


def _shown_bytes(payload: bytes) -> str:
    if not payload:
        return ""
    return _cut(f"{size_text(len(payload))}: {payload[: MAX_SHOWN // 2].hex(' ', 4)}")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}\n… see all of it with --json"
