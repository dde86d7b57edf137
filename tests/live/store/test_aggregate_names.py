"""The names of all aggregates, on one server."""

from __future__ import annotations

from typing import Any

import pytest

import eda
from eda.jetstream.api import Api
from eda.store import aggregate_names as module
from eda.store.aggregate_names import aggregate_names
from helpers import Admin
from support.store.snapshotting import Side

NAMES = ["4711", "a.b", "a b", "*", ">", "%", "%25", "_", "__", "é…☃", "a*b>c", "x" * 500, "\n\r\0", "_a", "~", "A-/b"]


@pytest.fixture
async def side(conn: eda.Conn, stream: str) -> Side:
    await conn.streams.create(stream)
    return Side(conn, stream)


async def names_of(side: Side) -> list[str]:
    return [name async for name in aggregate_names(side.api, side.stream)]


async def test_names_when_they_are_odd_are_yielded_once_each(side: Side) -> None:
    for name in NAMES:
        for version, type in enumerate(["made", "a.type", "x"], 1):
            await side.append(name, version, type)
    assert sorted(await names_of(side)) == sorted(NAMES)


async def test_names_when_aggregates_were_forgotten_leave_them_out(side: Side) -> None:
    await side.append("1", 1)
    await side.append("2", 1)
    await side.append("2", 2, "eda.forgotten")  # not purged yet
    await side.append("3", 1, "eda.forgotten")
    assert await names_of(side) == ["1"]


async def test_names_when_there_are_none_is_empty(side: Side) -> None:
    assert await names_of(side) == []


async def test_names_when_the_stream_does_not_exist_raises(conn: eda.Conn, stream: str) -> None:
    with pytest.raises(eda.StreamNotFound):
        await names_of(Side(conn, stream))


async def test_names_when_subjects_are_not_those_of_events_skip_them(side: Side, admin: Admin) -> None:
    await side.append("1", 1)
    for subject in ("", ".x", ".x.%zz", ".%zz.y", ".x.a*b", ".x._", ".x.y.z", ".x.%41"):
        await admin.js.publish(f"{side.stream}{subject}", b"")
    assert await names_of(side) == ["1"]


class Server:
    """Answers as a server that sends three subjects at once; `change` is called before each answer."""

    def __init__(self, subjects: list[str], change: Any = None) -> None:
        self.subjects = set(subjects)
        self.change = change
        self.n_asked = 0

    async def request(self, verb: str, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        assert verb == "STREAM.INFO.s"
        filter = body["subjects_filter"].split(".")[1]
        if filter == "*":
            self.n_asked += 1
            if self.change is not None:
                self.change(self)
        found = sorted(each for each in self.subjects if filter in ("*", each.split(".")[1]))
        page = found[body["offset"] :][:3]
        return {"total": len(found), "state": {"subjects": dict.fromkeys(page, 1)}}


async def served(server: Any) -> list[str]:
    return [name async for name in aggregate_names(server, "s")]


async def test_names_when_there_are_several_pages_are_complete() -> None:
    for n in range(1, 14):
        server = Server([f"s.t.{i:02}" for i in range(n)])
        assert await served(server) == [f"{i:02}" for i in range(n)]


async def test_names_when_subjects_are_purged_between_pages_miss_no_other() -> None:
    def purge(server: Server) -> None:
        if server.n_asked > 1:
            server.subjects = {each for each in server.subjects if each > "s.t.05"}

    server = Server([f"s.t.{i:02}" for i in range(12)], purge)
    assert set(await served(server)) >= {f"{i:02}" for i in range(6, 12)}


async def test_names_when_subjects_come_between_pages_are_yielded_once() -> None:
    def add(server: Server) -> None:
        if server.n_asked < 20:
            server.subjects.add(f"s.t.0{server.n_asked}a")

    names = await served(Server([f"s.t.{i:02}" for i in range(12)], add))
    assert len(names) == len(set(names))
    assert set(names) >= {f"{i:02}" for i in range(12)}


async def test_names_when_a_page_is_larger_than_other_answers_are_read(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []
    request = Api.request

    async def spy(api: Api, verb: str, *rest: Any, **options: Any) -> Any:
        limits.append(options.get("max_bytes"))
        return await request(api, verb, *rest, **options)

    monkeypatch.setattr(Api, "request", spy)
    await side.append("1", 1)
    assert await names_of(side) == ["1"]
    assert limits == [module.MAX_PAGE] * 2
