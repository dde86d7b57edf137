"""Loads that ask for events by the sequences that messages name, and what happens if the messages name wrong ones."""

from __future__ import annotations

from typing import Any

import pytest

import eda
from eda._codec import encode_event
from eda.store._earlier import EARLIER
from eda.store._tail_reading import MAX_FOLLOWED
from eda.store.history import History
from helpers import Admin


def made(n: int) -> eda.Event:
    return eda.Event(type=f"t{n % 3}", data=eda.JSON(n))


async def named(admin: Admin, stream: str, sequence: int) -> str | None:
    message = await admin.js.get_msg(stream, seq=sequence)
    return (message.headers or {}).get(EARLIER)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The aggregates whose events were searched by their subjects."""
    found: list[str] = []
    search = History._search

    async def recorded(self: History, aggregate: str, *more: Any) -> Any:
        found.append(aggregate)
        return await search(self, aggregate, *more)

    monkeypatch.setattr(History, "_search", recorded)
    return found


async def test_append_when_there_are_events_before_names_them(conn: eda.Conn, admin: Admin, stream: str) -> None:
    store = conn.store(stream)
    await store.append("a", [made(1)], expected="new")
    await store.append("b", [made(1)], expected="new")
    await store.append("a", [made(2)], expected=1)
    await store.append("a", [made(3), made(4), made(5)], expected=2)
    await store.append("a", [made(6)], expected=5)
    found = [await named(admin, stream, at) for at in range(1, 8)]
    assert found == ["0", "0", "0 1", "0 3 1", "1 3 1", "2 3 1", "0 6 5 4 3 1"]


@pytest.mark.parametrize("expects", ["a version", "any", "what was loaded", "what was appended"])
async def test_append_when_its_store_has_no_cache_names_the_events_before_the_last(
    conn: eda.Conn, admin: Admin, stream: str, expects: str
) -> None:
    store = conn.store(stream, cache=0)
    last = await store.append("a", [made(0)], expected="new")
    for version in range(1, 20):
        known = {"a version": version, "any": "any", "what was loaded": None, "what was appended": last}[expects]
        last = await store.append("a", [made(version)], expected=await store.load("a") if known is None else known)
    assert await named(admin, stream, 20) == "0 19 18 17 16 15 14 13 12 11 10 9 8 7 6 5"


@pytest.mark.parametrize("n", [1, 2, 16, 17, 60])
async def test_load_when_the_messages_name_all_events_searches_nothing(
    conn: eda.Conn, stream: str, searches: list[str], n: int
) -> None:
    store = conn.store(stream)
    for version in range(n):
        await store.append("a", [made(version)], expected=version)
        await store.append("b", [made(version)], expected="any")
    assert [event.version for event in await store.history("a")] == list(range(1, n + 1))
    assert [event.version for event in await conn.store(stream).history("b")] == list(range(1, n + 1))
    assert searches == []


async def test_load_when_the_writers_knew_only_the_last_event_searches_nothing(
    conn: eda.Conn, stream: str, searches: list[str]
) -> None:
    for version in range(6):
        await conn.store(stream).append("a", [made(version)], expected="any")
    assert [event.data.decode() for event in await conn.store(stream).history("a")] == list(range(6))
    assert searches == []


async def test_load_when_there_are_many_events_searches_them(conn: eda.Conn, stream: str, searches: list[str]) -> None:
    n = MAX_FOLLOWED + 2
    await conn.store(stream).append("a", [made(version) for version in range(n)], expected="new")
    assert len(await conn.store(stream).history("a")) == n
    assert searches == ["a"]


@pytest.mark.parametrize("value", [None, "", "0", "0 2", "0 1 1", "1", "0 99", "9999", "5 junk"])
async def test_load_when_a_message_names_no_or_wrong_events_is_exact(
    conn: eda.Conn, admin: Admin, stream: str, value: str | None
) -> None:
    store = conn.store(stream)
    await store.append("a", [made(1)], expected="new")
    await store.append("b", [made(1)], expected="new")
    await store.append("a", [made(2)], expected=1)
    await store.append("b", [made(2)], expected=1)
    envelope = encode_event(made(3).replace(aggregate="a"), "i3", "test", 1, 3)
    await admin.js.publish(f"{stream}.t0.a", envelope, headers=None if value is None else {EARLIER: value})
    events = await conn.store(stream).history("a")
    assert [(event.version, event.sequence) for event in events] == [(1, 1), (2, 3), (3, 5)]
