"""Events made of JSON lines, beside the same by msgspec and the constructor of events."""

from __future__ import annotations

import json

import eda
from eda._event_lines import events_of_lines
from eda.cli.line_events import LineEvents
from micro import Maker, Round

__all__ = ["CONTENDERS", "LINES", "N"]

N = 1000


def _line(n: int) -> bytes:
    fields = {"type": "reading-recorded", "aggregate": f"sensor-{n % 100}", "id": f"id-{n:018}", "encoding": "json"}
    data = {"sensor": n, "value": n * 0.5, "unit": "celsius", "at": "2026-11-30T10:00:00Z", "n": n}
    line = fields | {"time": f"2026-11-30T10:00:00.{n:09d}Z", "data": data}
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


LINES = b"".join(map(_line, range(N)))
READER = LineEvents(drops_versions=False)


def eda_lines() -> list[eda.Event]:
    return events_of_lines(LINES, READER.of)


def msgspec_lines() -> list[eda.Event]:
    return [READER.of(line) for line in LINES.splitlines()]


CONTENDERS: dict[str, Maker] = {
    "eda_lines": lambda: Round(eda_lines, N),
    "msgspec_lines": lambda: Round(msgspec_lines, N),
}
