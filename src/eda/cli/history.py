"""Prints the events of an aggregate: for people, or as lines of JSON."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable
from typing import Any

import click
from rich.console import Console
from rich.text import Text

import eda
from eda.cli.output import safe

__all__ = ["fields_of", "print_history", "print_json"]

SHOWN = ("id", "cause", "client", "schema")


def print_json(events: Iterable[eda.Event]) -> None:
    """Print one JSON object a line for each event, in ASCII."""
    for event in events:
        click.echo(json.dumps(fields_of(event), allow_nan=False))


def print_history(events: Iterable[eda.Event]) -> None:
    """Print the events for people. On a terminal, long lines are broken at its width; in a file, they stay whole."""
    console = Console(highlight=False)
    encoding = sys.stdout.encoding or "utf-8"
    for event in events:
        text = Text(no_wrap=not console.is_terminal)
        fields = fields_of(event)
        time = str(fields["time"] or "no time")
        text.append(f"{event.version:>6}  ", "bold")
        text.append(f"{time}  ")
        text.append(safe(event.type, encoding), "bold cyan")
        known = {name: fields[name] for name in SHOWN} | fields["meta"]
        if notes := [f"{safe(name, encoding)}={safe(value, encoding)}" for name, value in known.items() if value]:
            text.append(f"\n        {'  '.join(notes)}", "dim")
        text.append(f"\n        {safe(_data(fields), encoding)}")
        console.print(text, soft_wrap=not console.is_terminal)


def fields_of(event: eda.Event) -> dict[str, Any]:
    """Return an event's fields as values for JSON. If the data has no form in JSON, `data_base64` has its bytes."""
    known = event.replace(data=None).to_dict()
    fields = {
        "stream": event.stream,
        "aggregate": event.aggregate,
        "version": event.version,
        "sequence": event.sequence,
        **{name: known[name] for name in ("type", "id", "time", "ack_time", "cause", "client", "schema")},
        "meta": event.meta,
        "encoding": event.data.type,
        "data": None,
    }
    if event.data.type in ("json", "string", "msgpack", "nil"):
        try:
            value = event.data.decode()
            json.dumps(value, allow_nan=False)
        except (eda.CodecError, TypeError, ValueError, RecursionError):
            pass
        else:
            return fields | {"data": value}
    return fields | {"data_base64": base64.b64encode(event.data.encode()).decode()}


def _data(fields: dict[str, Any]) -> str:
    if "data_base64" in fields:
        return f"{fields['encoding']}: {fields['data_base64']}"
    return json.dumps(fields["data"], ensure_ascii=False)
