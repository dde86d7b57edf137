"""Prints stored events: for people, or as lines of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import click
import msgspec
from rich.text import Text

import eda
from eda._json_lines import json_lines
from eda.cli.output import console, safe
from eda.cli.printable import printable_lines

__all__ = ["data_text", "fields_of", "print_history", "print_json", "text_of"]

SHOWN = ("id", "cause", "client", "schema")


class _Line(msgspec.Struct):
    """The data in a line of JSON."""

    data: msgspec.Raw
    data_base64: str | None = None


def fields_of(event: eda.Event) -> dict[str, Any]:
    """Return an event's fields as values for JSON. If the data has no form in JSON, `data_base64` has its bytes."""
    try:
        fields: dict[str, Any] = msgspec.json.decode(json_lines([event]))
    except (msgspec.MsgspecError, RecursionError):  # a number that no float can hold
        fields = json.loads(json_lines([event]))
    return fields


def print_json(events: Iterable[eda.Event]) -> None:
    """Print one JSON object a line for each event, in UTF-8."""
    for event in events:
        click.echo(printable_lines(json_lines([event])), nl=False)


def print_history(events: Iterable[eda.Event]) -> None:
    """Print the events for people. On a terminal, long lines are broken at its width; in a file, they stay whole."""
    out = console()
    for event in events:
        text = text_of(event, f"{event.version:>6}", whole_lines=not out.is_terminal)
        out.print(text, soft_wrap=not out.is_terminal)


def text_of(event: eda.Event, head: str, *, whole_lines: bool, shown: tuple[str, ...] = SHOWN) -> Text:
    """Return an event as people read it: a line with `head`, time and type, its other fields, and its data."""
    encoding = sys.stdout.encoding or "utf-8"
    text = Text(no_wrap=whole_lines)
    fields = fields_of(event)
    text.append(f"{head}  ", "bold")
    text.append(f"{fields['time'] or 'no time'}  ")
    text.append(safe(event.type, encoding), "bold cyan")
    known = [(name, fields[name]) for name in shown if fields[name]] + list(event.meta.items())
    if notes := [f"{safe(name, encoding)}={safe(str(value), encoding)}" for name, value in known]:
        text.append(f"\n        {'  '.join(notes)}", "dim")
    data = data_text(event)
    if data is None:
        data = f"{fields['encoding']}: {fields['data_base64']}"
    text.append(f"\n        {safe(data, encoding)}")
    return text


def data_text(event: eda.Event, indent: int = 0) -> str | None:
    """Return an event's data as JSON; None if it has no form in JSON. `indent`: 0 puts all into one line.

    Numbers stay as they are stored: a float could be another number.
    """
    line = msgspec.json.decode(json_lines([event]), type=_Line)
    data = bytes(line.data)
    if line.data_base64 is not None and data == b"null":
        return None
    with suppress(msgspec.MsgspecError, RecursionError):  # nested too deeply
        data = msgspec.json.format(data, indent=indent)
    return data.decode()
