"""`eda pub` as its users run it: a process of its own, against a real server."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import eda
from helpers import Admin, freeze, until
from support.cli.commands import run_eda
from support.cli.pipes import RunningEda, run_eda_with

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes and signals")


@pytest.fixture
async def other(stream: str, admin: Admin) -> AsyncIterator[str]:
    """The name of a second stream of the test's own."""
    name = f"{stream}-other"
    yield name
    if name in await admin.stream_names():
        await admin.js.delete_stream(name)


async def stored(conn: eda.Conn, stream: str) -> list[eda.Event]:
    found: list[eda.Event] = []
    async with aclosing(conn.browse(stream)) as reading:
        async for events in reading:
            found += events
    return found


def lines_of(*lines: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


# --- one event -------------------------------------------------------------------------------------------------------


async def test_pub_when_given_all_fields_publishes_the_event_and_prints_its_receipt(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str
) -> None:
    await conn.streams.create(stream)
    arguments = ["pub", stream, '{"n": 1.50}', "--addr", server.url, "--type", "paid", "--aggregate", "7", "--id", "i1"]
    arguments += ["--cause", "c", "--schema", "2", "--meta", "a=b=c", "--meta", "ä="]
    code, out, err = await run_eda(*arguments)
    assert (code, out, err) == (0, f"{stream} stored event i1, sequence 1\n", "")
    (event,) = await stored(conn, stream)
    assert (event.type, event.aggregate, event.id, event.cause, event.schema) == ("paid", "7", "i1", "c", "2")
    assert (event.meta, event.client) == ({"a": "b=c", "ä": ""}, "eda-pub")
    assert event.data == eda.Data.from_encoded("json", b'{"n": 1.50}')
    code, out, err = await run_eda(*arguments, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"stream": stream, "id": "i1", "sequence": 1, "index": 0, "duplicate": True}


async def test_pub_when_the_data_comes_from_elsewhere_takes_it_as_it_is(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, tmp_path: Path
) -> None:
    await conn.streams.create(stream)
    path = tmp_path / "data"
    path.write_bytes(b"\0\xff\n")
    at = ["--addr", server.url]
    assert (await run_eda("pub", stream, "--file", str(path), "--encoding", "bytes", *at))[0] == 0
    assert (await run_eda_with("ä\n".encode(), "pub", stream, "-", "--encoding", "string", *at))[0] == 0
    assert (await run_eda_with(b' {"a":\n1} \n', "pub", stream, "-", *at))[0] == 0
    assert (await run_eda("pub", stream, "--type", "empty", "--encoding", "nil", *at))[0] == 0
    assert [(event.data.type, event.data.encode()) for event in await stored(conn, stream)] == [
        ("bytes", b"\0\xff\n"),
        ("string", "ä\n".encode()),
        ("json", b'{"a":\n1}'),
        ("nil", b""),
    ]


async def test_pub_when_the_stream_is_missing_creates_it_only_if_told_to(
    server: eda.EmbeddedServer, stream: str, admin: Admin
) -> None:
    for more in (["1"], ["--lines"]):
        code, out, err = await run_eda("pub", stream, "--addr", server.url, *more)
        assert (code, out, err) == (2, "", f"Error: stream {stream!r} does not exist; --create creates it\n")
    assert stream not in await admin.stream_names()
    assert (await run_eda("pub", stream, "1", "--create", "--addr", server.url))[0] == 0
    assert (await run_eda("pub", stream, "1", "--create", "--addr", server.url))[0] == 0
    assert await admin.last_seq(stream) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["s", "{"], "the data is not JSON"),
        (["s", "", "--encoding", "json"], "the data is not JSON: it is empty. Use --encoding nil"),
        (["s", "1", "--file", __file__], "only one of them"),
        (["s", "1", "--encoding", "nil"], "has no data"),
        (["s", "--encoding", "bytes"], "give DATA, --file, - for standard input, or --encoding nil"),
        (["s", "--type", "t"], "give DATA, --file, - for standard input, or --encoding nil"),
        (["s", "1", "--meta", "a"], "is not NAME=VALUE"),
        (["s", "1", "--meta", ""], "is not NAME=VALUE"),
        (["s", "1", "--meta", "=x"], "Invalid value for '--meta': '=x' has no NAME"),
        (["s", "1", "--meta", "\udcff=x"], "Invalid value for '--meta': '\\udcff=x' is not UTF-8"),
        (["s", "1", "--type", "\udcff"], "Invalid value for '--type': '\\udcff' is not UTF-8"),
        (["s", "1", "--id", "\udcff"], "Invalid value for '--id': '\\udcff' is not UTF-8"),
        (["s", "1", "--id", ""], "Invalid value for '--id': it is empty"),
        (["s", "--lines", "--id", ""], "Invalid value for '--id': it is empty"),
        (["s", "1", "--meta", "a=1", "--meta", "a=2"], "given twice"),
        (["s", "--file", "/no/such/file"], "does not exist"),
        (["s", "--lines", "--type", "a"], "with --lines"),
        (["s", "--lines", "1"], "with --lines"),
        (["s", "1", "--drop-versions"], "is for --lines"),
        (["s", "1", "--on-error", "skip"], "is for --lines"),
        ([], "Usage: "),
    ],
)
async def test_pub_when_the_arguments_are_wrong_ends_with_2(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, arguments: list[str], said: str
) -> None:
    await conn.streams.create(stream)
    given = [stream if each == "s" else each for each in arguments]
    code, out, err = await run_eda("pub", *given, "--addr", server.url)
    assert (code, out) == (2, "")
    assert said in err
    assert (await conn.streams.info(stream)).events == 0


async def test_pub_when_input_is_piped_without_being_asked_for_stores_nothing(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str
) -> None:
    await conn.streams.create(stream)
    code, out, err = await run_eda_with(b'{"x": 1}\n', "pub", stream, "--type", "t", "--addr", server.url)
    assert (code, out) == (2, b"")
    assert "- for standard input" in err
    assert (await conn.streams.info(stream)).events == 0


async def test_pub_when_the_id_can_not_be_sent_says_so(server: eda.EmbeddedServer, conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream)
    code, out, err = await run_eda("pub", stream, "1", "--id", "a b", "--addr", server.url)
    assert (code, out) == (2, "")
    assert err == "Error: --id must be printable ASCII without spaces: 'a b'\n"
    assert (await conn.streams.info(stream)).events == 0


async def test_pub_when_the_stream_belongs_to_a_store_is_refused(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str
) -> None:
    await conn.store(stream).append("7", [eda.Event(type="a")], expected="new")
    for more in (["1"], ["--lines"]):
        code, out, err = await run_eda("pub", stream, *more, "--addr", server.url)
        assert (code, out) == (2, "")
        assert "store" in err


# --- lines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
async def test_lines_when_tail_prints_them_copy_the_stream(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, other: str, packed: bool
) -> None:
    for name in (stream, other):
        await conn.streams.create(name, eda.StreamOptions(packed=packed))
    data = [None, eda.JSON({"n": 1}), eda.String("a\nb"), eda.Bytes(b"\xff"), eda.MsgPack({1: 2}), eda.MsgPack([1.5])]
    events = [
        eda.Event(
            type=f"t.{n % 3}", aggregate=f"a {n % 5}", data=each, cause="c", schema="1", meta={"n": str(n), "": "a\nb"}
        )
        for n in range(500)
        for each in data
    ]
    async with conn.publisher(stream, pack=eda.Pack() if packed else None) as publisher:
        await publisher.send_many(events)
    code, out, _ = await run_eda_with(b"", "tail", stream, "--addr", server.url, "--no-follow")
    assert code == 0
    code, said, err = await run_eda_with(out, "pub", other, "--lines", "--addr", server.url)
    assert (code, said.decode(), err) == (0, f"3,000 of 3,000 lines are stored in {other}\n", "")

    def kept(event: eda.Event) -> tuple[Any, ...]:
        texts = (event.id, event.type, event.aggregate, event.cause, event.client, event.schema)
        return (*texts, event.time_ns, event.meta, event.data)

    copies = await stored(conn, other)
    assert [kept(event) for event in copies] == [kept(event) for event in await stored(conn, stream)]
    assert (copies[-1].sequence < 200) == packed


async def test_lines_when_some_are_no_events_stop_there_or_skip_them(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, tmp_path: Path
) -> None:
    await conn.streams.create(stream)
    path = tmp_path / "lines"
    path.write_bytes(
        b'{"id":"i1","type":"a"}\n\n{"tpye":"b"}\n{"id":"i2"}\n{"id":"a b"}\n{"id":"i3","version":3}\n{"id":"i4"}\n{'
    )
    arguments = ["pub", stream, "--lines", "--file", str(path), "--addr", server.url]
    code, out, err = await run_eda(*arguments)
    assert (code, out) == (1, f"1 of 2 lines are stored in {stream}; 1 can't be published\n")
    assert err == "Error: line 3 can't be published: Object contains unknown field `tpye`\n"
    assert [event.id for event in await stored(conn, stream)] == ["i1"]
    code, out, err = await run_eda(*arguments, "--on-error", "skip", "--json")
    assert code == 1
    assert json.loads(out) == {"stream": stream, "lines": 7, "stored": 3, "refused": 0, "bad": 4, "pending": 0}
    assert [line.partition(" can't be published")[0] for line in err.splitlines()] == [
        f"Error: line {n}" for n in (3, 5, 6, 8)
    ]
    assert [event.id for event in await stored(conn, stream)] == ["i1", "i2", "i4"]
    code, out, _ = await run_eda(*arguments, "--on-error", "skip", "--json", "--drop-versions")
    assert (json.loads(out)["stored"], json.loads(out)["bad"]) == (4, 3)


async def test_lines_when_events_are_refused_are_counted_and_told_by_line(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await admin.api(
        f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [stream, f"{stream}.>"], "max_msg_size": 300}
    )
    lines = lines_of(*({"id": f"i{n}", "data": "x" * (400 if n in (7, 8) else 10)} for n in range(1, 21)))
    code, out, err = await run_eda_with(lines, "pub", stream, "--lines", "--addr", server.url, "--on-error", "skip")
    assert (code, out.decode()) == (1, f"18 of 20 lines are stored in {stream}; 2 were refused\n")
    told = err.splitlines()
    assert [line.partition(" was refused")[0] for line in told] == [
        "Error: line 7: event i7",
        "Error: line 8: event i8",
    ]


async def test_lines_when_an_event_is_refused_stop_although_no_more_lines_come(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await admin.api(
        f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [stream, f"{stream}.>"], "max_msg_size": 300}
    )
    async with RunningEda("pub", stream, "--lines", "--addr", server.url) as running:
        running.give(lines_of({"id": "i1"}, {"id": "i2", "data": "x" * 400}))
        code, out, err = await running.ended()  # its standard input is still open
    assert (code, out.decode()) == (1, f"1 of 2 lines are stored in {stream}; 1 was refused\n")
    assert err.startswith("Error: line 2: event i2 was refused: ")


async def test_lines_when_an_event_is_over_the_servers_limit_name_its_line(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str
) -> None:
    await conn.streams.create(stream)
    lines = lines_of({"id": "i1"}, {"id": "i2", "data": "x" * (1 << 20)}, {"id": "i3"})
    code, out, err = await run_eda_with(lines, "pub", stream, "--lines", "--addr", server.url, "--on-error", "skip")
    assert (code, out.decode()) == (1, f"2 of 3 lines are stored in {stream}; 1 can't be published\n")
    assert err.startswith("Error: line 2 ")
    assert "max_payload" in err


async def test_lines_when_none_come_store_none(server: eda.EmbeddedServer, conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream)
    code, out, err = await run_eda_with(b"\n\n", "pub", stream, "--lines", "--addr", server.url)
    assert (code, out.decode(), err) == (0, f"0 of 0 lines are stored in {stream}\n", "")


async def test_lines_when_they_come_slowly_are_published_as_they_come(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str
) -> None:
    await conn.streams.create(stream)
    async with RunningEda("pub", stream, "--lines", "--addr", server.url) as running:
        for n in range(1, 4):
            running.give(b'{"type":"a"}\n')
            await until(lambda n=n: _has(conn, stream, n), 30)


async def _has(conn: eda.Conn, stream: str, n: int) -> bool:
    return (await conn.streams.info(stream)).events == n


@needs_posix
@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_lines_when_interrupted_store_what_was_read_and_say_how_many(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, by: signal.Signals, code: int
) -> None:
    await conn.streams.create(stream)
    async with RunningEda("pub", stream, "--lines", "--json", "--addr", server.url) as running:
        running.give(lines_of(*({"id": f"i{n}"} for n in range(20_000))))
        await until(lambda: _begun(conn, stream), 30)
        ended, out, err = await running.ended(by)
    assert ended == code
    assert err in ("interrupted\n", "terminated\n")
    counts = json.loads(out)
    assert counts["stored"] == counts["lines"] == len(await stored(conn, stream))
    assert counts["pending"] == 0


async def _begun(conn: eda.Conn, stream: str) -> bool:
    return (await conn.streams.info(stream)).events > 0


@needs_posix
async def test_lines_when_the_stream_takes_them_slowly_are_not_read_ahead_without_bound(
    server: eda.EmbeddedServer, own_server: eda.EmbeddedServer
) -> None:
    """While the server is gone, the command stops reading, and goes on when it is back."""
    async with eda.connect(own_server.url) as conn:
        await conn.streams.create("slow")
    line = lines_of({"type": "a", "data": base64.b64encode(bytes(700)).decode()})
    async with RunningEda("pub", "slow", "--lines", "--addr", own_server.url) as running:
        running.give(line)
        async with eda.connect(own_server.url) as conn:
            await until(lambda: _has(conn, "slow", 1), 30)
        freeze(own_server.pid)
        try:
            n = 40_000
            assert running.process.stdin is not None
            running.give(line * n)
            writing = asyncio.create_task(running.process.stdin.drain())
            before = -1
            transport = running.process.stdin.transport
            while before != transport.get_write_buffer_size():
                before = transport.get_write_buffer_size()
                await asyncio.sleep(0.3)
            assert before > 10 * 2**20  # of 38 MB
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        await writing
        running.process.stdin.write_eof()
        code, out, err = await running.ended()
    assert (code, out.decode()) == (0, "40,001 of 40,001 lines are stored in slow\n"), err
