"""eda.publishing._columns: which events the rows are, which arguments are refused, and when the core takes no more."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from typing import Any

import pytest

import eda
from eda._codec import decode_event
from eda.publishing._columns import Columns
from support.publishing.short_sender import Short

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


@eda.payload("columns-paid", schema="2")
@dataclass(frozen=True)
class Paid:
    cents: int


class Kind(StrEnum):
    A = "a"


def rows_of(**given: Any) -> Columns:
    """Return what `send_columns` makes of its arguments."""
    texts = dict.fromkeys(("type", "id", "schema", "cause", "client", "aggregate"), "")
    return Columns({**texts, "data": None, "time": None, "meta": None, **given})


def accepted(rows: Columns, **options: Any) -> list[eda.Event]:
    """Return the events of all rows, as they are written."""
    sender = Short()
    sender._mark = options.pop("mark", None)
    ids: list[str] = []
    assert rows.accept(sender, 0, ids) == len(rows)
    events = [decode_event(each.payload) for each in sender.rig.written()]
    assert [event.id for event in events] == ids
    return events


# Columns > the events of their rows, without ids
TABLES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "every-column": (
        {
            "type": ["a", "b"],
            "data": [eda.JSON(1), b"x"],
            "id": ["i", "j"],
            "time": [NOW, 7],
            "schema": ["s", ""],
            "cause": ["", eda.Receipt("r", "s", 1)],
            "client": ["", "c"],
            "aggregate": ["é", "g"],
            "meta": [{"k": "v"}, None],
        },
        [
            {
                "type": "a",
                "data": eda.JSON(1),
                "id": "i",
                "time": NOW,
                "schema": "s",
                "aggregate": "é",
                "meta": {"k": "v"},
            },
            {"type": "b", "data": eda.Bytes(b"x"), "id": "j", "time": 7, "cause": "r", "client": "c", "aggregate": "g"},
        ],
    ),
    "every-value": (
        {
            "id": ["i", "j"],
            "type": "t",
            "data": b"x",
            "time": NOW,
            "schema": "s",
            "cause": eda.Receipt("r", "s", 1),
            "client": "c",
            "aggregate": "a",
            "meta": {"k": "v"},
        },
        [
            {
                "id": each,
                "type": "t",
                "data": eda.Bytes(b"x"),
                "time": NOW,
                "schema": "s",
                "cause": "r",
                "client": "c",
                "aggregate": "a",
                "meta": {"k": "v"},
            }
            for each in "ij"
        ],
    ),
    "tuples": (
        {"type": ("a", "b"), "data": (None, eda.String("x"))},
        [{"type": "a"}, {"type": "b", "data": eda.String("x")}],
    ),
    "payloads": (
        {"data": [Paid(1), Paid(2)], "type": ["columns-paid", ""]},
        [{"data": Paid(1)}, {"data": Paid(2)}],
    ),
    "one-payload": ({"data": Paid(1), "schema": ["", "2"]}, [{"data": Paid(1)}] * 2),
    "subclasses": (
        {"type": Kind.A, "aggregate": [Kind.A, "b"], "data": [type("Raw", (bytes,), {})(b"x"), None]},
        [{"type": "a", "aggregate": "a", "data": eda.Bytes(b"x")}, {"type": "a", "aggregate": "b"}],
    ),
    "empty-values": ({"data": [b"", None], "type": "", "meta": {}}, [{"data": eda.Bytes(b"")}, {}]),
}


@pytest.mark.parametrize("table", TABLES)
def test_rows_when_made_are_the_events_of_their_values(table: str) -> None:
    given, expected = TABLES[table]
    rows = rows_of(**given)
    assert [rows.event(row) for row in range(len(rows))] == [eda.Event(**each) for each in expected]


@pytest.mark.parametrize("table", TABLES)
def test_rows_when_accepted_are_written_as_the_same_events_are(table: str) -> None:
    given, expected = TABLES[table]
    sender = Short()
    sender.rig.core.accept_many([eda.Event(**each) for each in expected], 0, [])
    wanted = [decode_event(each.payload) for each in sender.rig.written()]
    for event, want, fields in zip(accepted(rows_of(**given)), wanted, expected, strict=True):
        filled = {"id": event.id} if "id" not in fields else {}
        if "time" not in fields:
            filled["time"] = event.time_ns  # type: ignore[assignment]
        assert event == want.replace(**filled)


def test_rows_when_the_columns_change_later_stay_as_they_were() -> None:
    types, data = ["a", "b"], [b"1", b"2"]
    meta = {"k": "v"}
    rows = rows_of(type=types, data=data, meta=meta)
    types.clear()
    data[0] = b"3"
    meta["k"] = "w"
    assert [(each.type, each.data.decode(), each.meta) for each in accepted(rows)] == [
        ("a", b"1", {"k": "v"}),
        ("b", b"2", {"k": "v"}),
    ]


def test_rows_when_user_code_that_runs_meanwhile_drops_everything_are_sent() -> None:
    """The encoder of a row clears the lists, and drops the last references of the program to the rows after it."""
    held: list[Any] = []

    class Value:
        def __init__(self, number: int) -> None:
            self.number = number

    def encode(value: Value) -> bytes:
        held.clear()
        data.clear()
        types.clear()
        return str(value.number).encode()

    eda.register_encoding("columns-odd", encode, bytes)
    types = [f"t{number}" for number in range(50)]
    data = [eda.Data("columns-odd", Value(number)) for number in range(50)]
    held.append(rows_of(type=types, data=data))
    sender = Short()
    ids: list[str] = []
    assert held.pop().accept(sender, 0, ids) == 50
    assert [
        (each.type, each.data.encode()) for each in map(decode_event, (w.payload for w in sender.rig.written()))
    ] == [(f"t{number}", str(number).encode()) for number in range(50)]


# --- what is refused before the first row ----------------------------------------------------------------------------


class Array:
    """What numpy and pandas have: many values, but no list."""

    def __iter__(self) -> Any:
        return iter(["a"])


COLUMN = " A column must be a list or a tuple"
REFUSED: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "no-column": ({"type": "t"}, "one argument at least must be a column: a list or a tuple with", None),
    "lengths": (
        {"type": ["a"], "data": [None] * 3, "id": ()},
        "all columns must have the same length: type has 1, data has 3, id has 0",
        None,
    ),
    "array": ({"type": ["t"], "aggregate": Array()}, "aggregate must be a str, not Array." + COLUMN, "aggregate"),
    "generator": ({"type": (each for each in "ab")}, "type must be a str, not generator." + COLUMN, "type"),
    "data-array": ({"data": Array()}, "that is declared with eda.payload, not Array." + COLUMN, "data"),
    "data-range": ({"data": range(3)}, "not range." + COLUMN, "data"),
    "time-array": ({"time": Array(), "type": ["t"]}, "time must be an aware datetime or int", "time"),
    "meta-array": ({"meta": Array(), "type": ["t"]}, "meta must map str to str, not be Array." + COLUMN, "meta"),
    "text": ({"type": ["t"], "data": "text"}, "data must be made by eda.JSON, eda.Bytes, eda.String", "data"),
    "number": ({"type": 5, "data": [b""]}, "type must be a str, not int", "type"),
    "naive": ({"type": ["t"], "time": datetime(2026, 1, 1)}, "time must be an aware datetime", "time"),
    "one-id": ({"type": ["t"], "id": "i"}, "id must be a column: events with the same id are duplicates", "id"),
    "contradiction": ({"type": "t", "data": Paid(1), "aggregate": ["a"]}, "type 't' contradicts the data", "type"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_columns_when_they_cannot_be_a_table_are_refused(case: str) -> None:
    given, message, argument = REFUSED[case]
    with pytest.raises(eda.ConfigError, match=re.escape(message)) as caught:
        rows_of(**given)
    assert caught.value.argument == argument


# --- what is refused in a row ----------------------------------------------------------------------------------------

# Columns > the error of the last row, and its column
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "type": ({"type": ["t", "t", None]}, "row 2: type must be a str, not NoneType", "type"),
    "aggregate": ({"aggregate": ["a", "b", 5]}, "row 2: aggregate must be a str, not int", "aggregate"),
    "data": ({"data": [b"a", None, "text"]}, "row 2: data must be made by", "data"),
    "time": ({"time": [1, 2, 0]}, "row 2: time must not be", "time"),
    "meta": ({"meta": [None, {}, {"k": 1}]}, "row 2: meta must map str to str", "meta"),
    "cause": ({"cause": ["", "", b""]}, "row 2: cause must be a str, not bytes", "cause"),
    "id": ({"id": ["a", "b", "a b"]}, "row 2: id must be printable ASCII", "id"),
    "too-large": ({"data": [b"", b"", bytes(2**21)]}, "row 2: an event of", "data"),
    "contradiction": (
        {"type": ["columns-paid", "", "t"], "data": [Paid(1)] * 3},
        "row 2: type 't' contradicts the data",
        "type",
    ),
    "undeclared": ({"data": [Paid(1), None, 5]}, "row 2: data must be made by", "data"),
}


@pytest.mark.parametrize("case", WRONG)
def test_row_when_it_is_wrong_is_named_and_the_rows_before_are_accepted(case: str) -> None:
    given, message, column = WRONG[case]
    sender, ids = Short(), list[str]()
    with pytest.raises(eda.ConfigError, match=f"^{re.escape(message)}") as caught:
        rows_of(**given).accept(sender, 0, ids)
    assert len(ids) == sender.rig.core.n_accepted == len(sender.rig.written()) == 2
    assert (caught.value.argument, getattr(caught.value, "__notes__", [])) == (column, [])


@pytest.mark.parametrize("column", ["data", "aggregate"])
def test_row_when_it_cannot_be_encoded_has_a_note_and_the_rows_before_are_accepted(column: str) -> None:
    wrong: Any = eda.JSON(object()) if column == "data" else "\ud800"
    sender, ids = Short(), list[str]()
    with pytest.raises(eda.EncodeError) as caught:
        rows_of(**{column: [b"" if column == "data" else "", wrong]}).accept(sender, 0, ids)
    assert len(ids) == sender.rig.core.n_accepted == 1
    assert caught.value.__notes__ == ["row 1"]


def test_row_when_code_of_the_program_fails_has_a_note() -> None:
    class Zone(tzinfo):
        def utcoffset(self, at: object) -> Any:
            raise LookupError("no zone")

    rows = rows_of(time=[NOW, NOW.replace(tzinfo=Zone())])
    for take in (lambda: rows.accept(Short(), 0, []), lambda: rows.event(1)):
        with pytest.raises(LookupError, match="no zone") as caught:
            take()
        assert caught.value.__notes__ == ["row 1"]


def test_event_when_the_row_is_not_there_raises() -> None:
    rows = rows_of(type=["a"])
    assert rows.event(0).type == "a"
    for row in (-1, 1):
        with pytest.raises(IndexError):
            rows.event(row)


# --- when the core takes no more ------------------------------------------------------------------------------------


def test_accept_when_the_window_is_full_stops_and_goes_on_at_that_row() -> None:
    sender = Short()
    rows = rows_of(id=[f"e{number}" for number in range(2500)])
    ids: list[str] = []
    at = 0
    stops = []
    while at < len(rows):
        at = rows.accept(sender, at, ids)
        stops.append(at)
        assert rows.accept(sender, at, ids) == at
        for seq in range(sender.rig.core.oldest, sender.rig.core.next_seq):
            sender.rig.core.settle(seq, 1)
    assert ids == [f"e{number}" for number in range(2500)]
    assert stops == [1000, 2000, 2500]
    assert rows.accept(sender, 2500, ids) == 2500


def test_accept_when_there_are_no_rows_accepts_none() -> None:
    sender = Short()
    assert rows_of(type=[], data=()).accept(sender, 0, []) == 0
    assert sender.rig.core.n_accepted == 0


# --- hooks -----------------------------------------------------------------------------------------------------------


def test_accept_when_there_is_a_mark_sends_what_it_returns() -> None:
    given: list[str] = []

    def mark(event: eda.Event, publisher: Any) -> eda.Event:
        assert type(publisher) is Short
        given.append(event.aggregate)
        return event.replace(meta={"marked": "yes"})

    events = accepted(rows_of(aggregate=["a", "b"]), mark=mark)
    assert given == ["a", "b"]
    assert [event.meta for event in events] == [{"marked": "yes"}] * 2


MARKS: dict[str, Callable[[eda.Event, Any], Any]] = {
    "none": lambda event, _: None if event.type == "b" else event,
    "no-event": lambda event, _: "event" if event.type == "b" else event,
}


@pytest.mark.parametrize("mark", MARKS.values(), ids=MARKS)
def test_accept_when_a_mark_returns_no_event_raises(mark: Callable[[eda.Event, Any], Any]) -> None:
    sender = Short()
    sender._mark = mark
    ids: list[str] = []
    with pytest.raises(TypeError):
        rows_of(type=["a", "b", "c"]).accept(sender, 0, ids)
    assert len(ids) == sender.rig.core.n_accepted == 1
