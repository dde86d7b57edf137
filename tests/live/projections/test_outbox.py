"""`eda.sql.Outbox`: events are rows of the user's transaction, in every database."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

import eda
import eda.sql
from eda._codec import decode_event
from support.projections.outboxes import Box
from support.projections.sinks import Place


@pytest.fixture
async def box(place: Place) -> Box:
    box = Box(place)
    await box.outbox.create()
    return box


async def test_add_when_the_transaction_commits_stores_the_event_under_its_id(box: Box) -> None:
    ids: list[str] = []
    event = eda.Event(type="placed", aggregate="a.\x00b", data=eda.JSON({"n": 1}), meta={"k": "v"}, cause="c")

    async def work_async(tx: Any) -> None:
        ids.append(await box.outbox.add(tx, "orders", event))
        ids.extend(await box.outbox.add_many(tx, "orders", [eda.Event(id="second"), eda.Event(type="third")]))

    def work(tx: Any) -> None:  # a plain function need not await
        box.outbox.add(tx, "orders", event.replace(id="first"))
        box.outbox.add_many(tx, "orders", [eda.Event(id="second"), eda.Event(id="x")])
        ids.extend(["first", "second", "x"])

    await box.transaction(work_async if box.place.kind.is_async else work)
    rows = await box.rows("SELECT id, stream, key, envelope FROM eda_outbox ORDER BY serial")
    assert [row[:3] for row in rows] == [
        (ids[0], "orders", "a%2E%00b"), (ids[1], "orders", ""), (ids[2], "orders", "")
    ]  # fmt: skip
    assert len(set(ids)) == 3
    stored = decode_event(bytes(rows[0][3]))
    assert stored.replace(time=None, id="") == event.replace(time=None, id="")
    assert stored.id == ids[0]
    assert stored.time_ns > 0


async def test_add_when_the_transaction_rolls_back_stores_nothing(box: Box) -> None:
    def fail(tx: Any) -> Any:
        if not box.place.kind.is_async:
            box.outbox.add(tx, "orders", eda.Event(type="placed"))
            raise ZeroDivisionError

        async def work() -> None:
            await box.outbox.add(tx, "orders", eda.Event(type="placed"))
            raise ZeroDivisionError

        return work()

    with pytest.raises(ZeroDivisionError):
        await box.transaction(fail)
    assert await box.ids() == []


async def test_add_when_an_id_is_there_already_fails_and_changes_nothing(box: Box) -> None:
    await box.add("orders", eda.Event(id="one"))
    with pytest.raises(Exception, match=r"(?i)unique"):
        await box.add("orders", eda.Event(id="two"), eda.Event(id="one"))
    assert await box.ids() == ["one"]


async def test_create_when_called_twice_keeps_the_rows(box: Box) -> None:
    await box.add("orders", eda.Event(id="one"))
    await box.outbox.create()
    await box.another().outbox.create()
    assert await box.ids() == ["one"]


# --- what needs no other database than SQLite ---------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "own.db"


@pytest.fixture
async def outbox(file: Path) -> eda.sql.Outbox:
    outbox = eda.sql.Outbox(eda.sql.SQLite(file))
    await outbox.create()
    return outbox


def test_add_when_the_event_can_never_be_published_writes_nothing(outbox: eda.sql.Outbox, file: Path) -> None:
    tx = sqlite3.connect(file)
    wrong: list[tuple[str, Any, str]] = [
        ("", eda.Event(), "stream"),
        ("or.ders", eda.Event(), "stream"),
        ("orders", {"type": "placed"}, "event"),
        ("orders", None, "event"),
        ("orders", eda.Event(id="with space"), "id"),
        ("orders", eda.Event(id="x" * 200), "id"),
        ("orders", eda.Event(data=eda.Bytes(bytes(2**20))), "data"),
        ("orders", eda.Event(aggregate="x" * 5000), "aggregate"),
    ]
    for stream, event, argument in wrong:
        with pytest.raises(eda.ConfigError) as raised:
            outbox.add(tx, stream, event)
        assert raised.value.argument == argument
    with pytest.raises(eda.EncodeError):
        outbox.add_many(tx, "orders", [eda.Event(id="fine"), eda.Event(data=eda.JSON({1j}))])
    with pytest.raises(eda.ConfigError, match="has the id of"):
        outbox.add_many(tx, "orders", [eda.Event(id="same"), eda.Event(id="same")])
    assert tx.in_transaction is False
    tx.close()


async def test_add_many_when_given_no_events_returns_no_ids(outbox: eda.sql.Outbox, file: Path) -> None:
    tx = sqlite3.connect(file)
    assert await outbox.add_many(tx, "orders", []) == []
    tx.close()


def test_add_when_tx_is_no_open_transaction_raises(outbox: eda.sql.Outbox, file: Path) -> None:
    tx = sqlite3.connect(file, isolation_level=None)
    for wrong in (tx, tx.cursor(), object(), None):
        with pytest.raises(eda.ConfigError) as raised:
            outbox.add(wrong, "orders", eda.Event())
        assert raised.value.argument == "tx"
    tx.execute("BEGIN")
    outbox.add(tx, "orders", eda.Event())
    tx.rollback()
    tx.close()


@pytest.mark.parametrize("table", ["", "a-b", "Orders", "x" * 49, "1st", 'a"b', None])
def test_outbox_when_the_name_of_its_table_is_wrong_raises(file: Path, table: Any) -> None:
    with pytest.raises(eda.ConfigError) as raised:
        eda.sql.Outbox(eda.sql.SQLite(file), table)
    assert raised.value.argument == "table"


def test_outbox_when_other_arguments_are_wrong_raises(file: Path) -> None:
    with pytest.raises(eda.ConfigError) as raised:
        eda.sql.Outbox(object())  # type: ignore[arg-type]
    assert raised.value.argument == "into"
    with pytest.raises(eda.ConfigError) as raised:
        eda.sql.Outbox(eda.sql.SQLite(file), max_event_bytes=0)
    assert raised.value.argument == "max_event_bytes"


def test_ddl_when_executed_makes_the_tables_that_add_needs(file: Path) -> None:
    outbox = eda.sql.Outbox(eda.sql.SQLite(file), "shop_events")
    tx = sqlite3.connect(file)
    for statement in outbox.ddl("sqlite"):
        tx.execute(statement)
    outbox.add(tx, "orders", eda.Event(id="one"))
    tx.commit()
    assert tx.execute("SELECT id FROM shop_events").fetchall() == [("one",)]
    tx.close()
    with pytest.raises(eda.ConfigError):
        outbox.ddl("mysql")  # type: ignore[arg-type]
