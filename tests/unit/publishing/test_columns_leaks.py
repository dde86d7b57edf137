"""The rows of a table give back what they took: 100,000 for each way in which they can end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import eda
from eda.publishing._columns import Columns
from leaks import MAX_BLOCKS, MAX_RSS, growth
from support.publishing.publisher_core import Rig
from support.publishing.short_sender import Short

N = 100_000
ROWS = 100
TEXT = "t" * 100
DATA = eda.JSON([1, 2])
RAW = bytes(100)
META = {"k": "v"}
MARKED = eda.Event(type="m", meta={"a": "b"})
NOTHING: dict[str, Any] = dict.fromkeys(("type", "id", "schema", "cause", "client", "aggregate"), "") | dict.fromkeys(
    ("data", "time", "meta")
)


@eda.payload("columns-leak")
@dataclass(frozen=True)
class Payload:
    number: int


PAYLOAD = Payload(1)

# Columns > how many rows are accepted of them
TABLES: dict[str, tuple[dict[str, Any], int]] = {
    "columns": (
        {"type": [TEXT] * ROWS, "aggregate": (TEXT,) * ROWS, "data": [RAW] * ROWS, "meta": [META] * ROWS},
        ROWS,
    ),
    "values": ({"type": [TEXT] * ROWS, "aggregate": TEXT, "data": RAW, "meta": META, "time": 7}, ROWS),
    "data": ({"type": TEXT, "data": [DATA] * ROWS, "time": [7] * ROWS}, ROWS),
    "payloads": ({"data": [PAYLOAD] * ROWS}, ROWS),
    "one-payload": ({"data": PAYLOAD, "aggregate": [TEXT] * ROWS}, ROWS),
    "wrong": ({"type": [TEXT] * 10 + [None], "data": [RAW] * 11}, 10),
    "wrong-data": ({"type": [TEXT] * 11, "data": [RAW] * 10 + [TEXT]}, 10),
    "wrong-id": ({"id": [*map(str, range(10)), "a b"], "data": [RAW] * 11}, 10),
    "not-encoded": ({"type": [TEXT] * 11, "data": [RAW] * 10 + [eda.Data("columns-unknown", 1)]}, 10),
}


@pytest.mark.parametrize("packs", [None, {"max_events": 8, "max_pack_bytes": 4096}], ids=["plain", "packs"])
@pytest.mark.parametrize("table", TABLES)
def test_memory_when_100000_rows_are_sent_does_not_grow(table: str, packs: dict[str, Any] | None) -> None:
    given, n_accepted = TABLES[table]
    sender = Short()
    sender.rig = Rig(packs=packs, wants_acks=False)
    core = sender._core = sender.rig.core
    sender.rig.window()

    def path() -> None:
        rows, ids = Columns(NOTHING | given), list[str]()
        if n_accepted == ROWS:
            rows.accept(sender, 0, ids)
        else:
            with pytest.raises((eda.ConfigError, eda.UnknownEncoding)):
                rows.accept(sender, 0, ids)
        assert len(ids) == n_accepted
        core.close_pack()
        for seq in core.window.pending():
            core.settle(seq, 1)
        sender.rig.out.flush()
        sender.rig._data.clear()
        assert core.n_pending == 0

    shared = (TEXT, DATA, RAW, META, PAYLOAD, sender, core)
    blocks, tracked, size = growth(path, N // ROWS, n_before=60, shared=shared)
    assert (blocks < MAX_BLOCKS, tracked < MAX_BLOCKS, size < MAX_RSS) == (True, True, True)


def refuse(event: eda.Event, publisher: Any) -> Any:
    raise LookupError("no")


MARKS: dict[str, tuple[Callable[[eda.Event, Any], Any], type[Exception] | None]] = {
    "the-same": (lambda event, publisher: event, None),
    "another": (lambda event, publisher: MARKED, None),
    "failing": (refuse, LookupError),
    "none": (lambda event, publisher: None, TypeError),
}


@pytest.mark.parametrize("name", MARKS)
def test_memory_when_rows_are_changed_before_they_are_sent_does_not_grow(name: str) -> None:
    sender = Short()
    sender._mark, error = MARKS[name]
    core = sender.rig.core

    def path() -> None:
        rows = Columns(NOTHING | {"type": [TEXT] * 10, "data": RAW})
        if error is None:
            rows.accept(sender, 0, [])
        else:
            with pytest.raises(error):
                rows.accept(sender, 0, [])
        for seq in core.window.pending():
            core.settle(seq, 1)
        sender.rig.written()

    blocks, tracked, size = growth(path, 2000, n_before=600, shared=(TEXT, RAW, MARKED, sender, core, refuse))
    assert (blocks < MAX_BLOCKS, tracked < MAX_BLOCKS, size < MAX_RSS) == (True, True, True)


def test_memory_when_columns_are_refused_or_never_sent_does_not_grow() -> None:
    def path() -> None:
        rows = Columns(NOTHING | {"type": [TEXT] * 10, "data": RAW, "meta": META})
        assert rows.event(3).data.encode() is RAW
        for wrong in ({"type": TEXT}, {"type": [TEXT], "data": []}, {"type": [TEXT], "aggregate": RAW}):
            with pytest.raises(eda.ConfigError):
                Columns(NOTHING | wrong)

    blocks, tracked, size = growth(path, 10_000, n_before=500, shared=(TEXT, RAW, META))
    assert (blocks < MAX_BLOCKS, tracked < MAX_BLOCKS, size < MAX_RSS) == (True, True, True)
