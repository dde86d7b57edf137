"""`eda tail` as its users run it: a process of its own, against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import eda
from helpers import Admin, Logged, until
from support.cli.commands import DEADLINE_S, run_eda
from support.cli.pipes import RunningEda

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes and signals")


def events(n: int, first: int = 0) -> list[eda.Event]:
    return [
        eda.Event(type="even" if i % 2 == 0 else "odd", aggregate=str(i % 3), data=eda.JSON(i))
        for i in range(first, first + n)
    ]


async def fill(conn: eda.Conn, stream: str, n: int, **options: Any) -> None:
    async with conn.publisher(stream, **options) as publisher:
        await publisher.send_many(events(n))


async def tail(server: eda.EmbeddedServer, *arguments: str) -> list[dict[str, Any]]:
    """Return the objects that the command prints."""
    code, out, err = await run_eda("tail", "--addr", server.url, *arguments)
    assert (code, err) == (0, ""), err
    return [json.loads(line) for line in out.splitlines()]


def numbers(printed: list[dict[str, Any]]) -> list[int]:
    return [each["data"] for each in printed]


async def test_tail_when_not_following_prints_lines_of_json_and_changes_nothing(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await conn.publish(
        stream, eda.Event(type="paid", aggregate="7", data=eda.JSON({"n": 1}), cause="c", schema="2", meta={"k": "ä"})
    )
    await conn.publish(stream, eda.Event(type="raw", data=eda.Bytes(b"\0\xff")))
    before, names = await conn.streams.info(stream), set(await admin.stream_names())
    first, second = await tail(server, stream, "--no-follow")
    assert {name: first[name] for name in first if name not in ("id", "time", "ack_time")} == {
        "stream": stream,
        "aggregate": "7",
        "version": 0,
        "sequence": 1,
        "index": 0,
        "type": "paid",
        "cause": "c",
        "client": conn.client,
        "schema": "2",
        "meta": {"k": "ä"},
        "encoding": "json",
        "data": {"n": 1},
    }
    assert (second["data"], second["data_base64"]) == (None, "AP8=")
    assert datetime.fromisoformat(first["time"]) <= datetime.fromisoformat(first["ack_time"]) <= datetime.now(UTC)
    assert await conn.streams.info(stream) == before
    assert await admin.consumers(stream) == []
    assert set(await admin.stream_names()) == names


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
async def test_tail_when_told_where_to_begin_prints_from_there(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, packed: bool
) -> None:
    pack = eda.Pack(max_events=16, linger_s=1) if packed else None
    await conn.streams.create(stream, eda.StreamOptions(packed=packed))
    await fill(conn, stream, 100, pack=pack)
    once = [stream, "--no-follow"]
    assert numbers(await tail(server, *once)) == list(range(100))
    assert numbers(await tail(server, *once, "--from", "2")) == list(range(16 if packed else 1, 100))
    assert numbers(await tail(server, *once, "--from", "1000")) == []
    assert numbers(await tail(server, *once, "--last", "5")) == [95, 96, 97, 98, 99]
    assert numbers(await tail(server, *once, "--last", "5", "--limit", "2")) == [95, 96]
    assert numbers(await tail(server, *once, "--last", "4", "--type", "odd")) == [93, 95, 97, 99]
    assert numbers(await tail(server, *once, "--last", "90", "--aggregate", "1")) == list(range(1, 100, 3))
    assert numbers(await tail(server, *once, "--last", "0")) == []
    assert numbers(await tail(server, *once, "--limit", "3", "--type", "odd", "--type", "none")) == [1, 3, 5]
    assert numbers(await tail(server, *once, "--since", "1h", "--limit", "2")) == [0, 1]
    assert numbers(await tail(server, *once, "--since", datetime.now(UTC).isoformat())) == []


async def test_tail_when_following_begins_with_the_last_ten_and_goes_on(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await fill(conn, stream, 30)
    async with RunningEda("tail", stream, "--addr", server.url) as running:
        assert [json.loads(await running.line())["data"] for _ in range(10)] == list(range(20, 30))
        for event in events(3, 30):
            await conn.publish(stream, event)
        assert [json.loads(await running.line())["data"] for _ in range(3)] == [30, 31, 32]
        assert all(name.startswith("eda-r-") for name in await admin.consumers(stream))
        code, out, err = await running.ended(signal.SIGINT)
    assert (code, out, err) == (130, b"", "interrupted\n")
    assert await admin.consumers(stream) == []


async def test_tail_when_letters_were_replayed_prints_so_many_events_all_the_same(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, logged: Logged
) -> None:
    logged.allow("")

    def refuse(event: eda.Event) -> None:
        if event.sequence <= 20:
            raise eda.Reject("no")

    await fill(conn, stream, 20)
    async with conn.subscribe(stream, refuse, name="billing", durable=True, backfill=True) as sub:
        await until(lambda: sub.stats().dead_lettered == 20)
        await conn.replay_dead(stream, "billing")
    for n in (3, 10, 20):
        shown = await tail(server, stream, "--no-follow", "--last", str(n))
        assert numbers(shown) == list(range(20 - n, 20))


async def test_tail_when_following_from_beyond_the_end_says_so(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await fill(conn, stream, 2)
    async with RunningEda("tail", stream, "--addr", server.url, "--from", "4", "--limit", "1") as running:
        await until(lambda: admin.consumers(stream))
        for event in events(2, 2):
            await conn.publish(stream, event)
        code, out, err = await running.ended()
    assert (code, json.loads(out)["sequence"]) == (0, 4)
    assert err.startswith(f"eda: reading stream {stream} starts at 4, but the stream ends at 2: ")


@needs_posix
async def test_tail_when_terminated_ends_with_143(server: eda.EmbeddedServer, conn: eda.Conn, stream: str) -> None:
    await fill(conn, stream, 1)
    async with RunningEda("tail", stream, "--addr", server.url) as running:
        await running.line()
        assert await running.ended(signal.SIGTERM) == (143, b"", "terminated\n")


async def test_tail_when_limited_while_following_ends_after_so_many(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str
) -> None:
    await fill(conn, stream, 3)
    async with RunningEda("tail", stream, "--addr", server.url, "--limit", "5", "--type", "odd") as running:
        assert json.loads(await running.line())["data"] == 1
        await fill(conn, stream, 20)
        code, out, err = await running.ended()
    assert (code, err) == (0, "")
    assert [json.loads(line)["data"] for line in out.splitlines()] == [1, 3, 5, 7]


@pytest.mark.parametrize("retention", ["interest", "workqueue"])
async def test_tail_when_a_consumer_would_remove_events_reads_without_one(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, admin: Admin, retention: str
) -> None:
    await admin.api(
        f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [stream, f"{stream}.>"], "retention": retention}
    )
    async with conn.subscribe(stream, print, name="n", durable=True, backfill=True) as sub:
        sub.pause()
        await fill(conn, stream, 20)
    before = await conn.streams.info(stream)
    assert numbers(await tail(server, stream, "--no-follow")) == list(range(20))
    assert numbers(await tail(server, stream, "--no-follow", "--last", "3")) == [17, 18, 19]
    assert await conn.streams.info(stream) == before
    assert await admin.consumers(stream) == ["n"]


async def test_tail_when_pretty_prints_a_text_for_people(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str
) -> None:
    await conn.publish(
        stream, eda.Event(type="a\x1b[2Jb", aggregate="7", data=eda.JSON({"n": "\x9b"}), meta={"k": "v"})
    )
    code, out, err = await run_eda("tail", stream, "--addr", server.url, "--no-follow", "--pretty")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert "\x9b" not in out
    head, notes, data = out.splitlines()
    assert head.startswith("     1  2")
    assert head.endswith("Z  a\\x1b[2Jb")
    assert notes.split()[0] == "aggregate=7"
    assert notes.endswith("k=v")
    assert data.strip() == '{"n": "\\x9b"}'


async def test_tail_when_the_stream_is_deleted_meanwhile_says_so(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str
) -> None:
    await fill(conn, stream, 1)
    async with RunningEda("tail", stream, "--addr", server.url) as running:
        await running.line()
        await conn.streams.delete(stream)
        code, out, err = await running.ended()
    assert (code, out) == (2, b"")
    assert err.splitlines() == [f"Error: stream {stream!r} does not exist"]


async def test_tail_when_a_message_is_no_event_prints_the_others_and_warns(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await fill(conn, stream, 1)
    await admin.js.publish(stream, b"{}")
    await conn.publish(stream, events(1, 1)[0])
    code, out, err = await run_eda("tail", stream, "--addr", server.url, "--no-follow")
    assert code == 0
    assert [json.loads(line)["data"] for line in out.splitlines()] == [0, 1]
    assert "sequence 2 is not an event and is skipped: " in err
    assert "private" not in err


async def test_tail_when_the_stream_can_not_be_read_ends_with_2(
    server: eda.EmbeddedServer, stream: str, admin: Admin
) -> None:
    for name in (stream, "no such name"):
        code, out, err = await run_eda("tail", name, "--addr", server.url)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert name in err
    assert stream not in await admin.stream_names()


@pytest.mark.parametrize(
    "arguments",
    [[], ["s", "--from", "0"], ["s", "--from", "1", "--last", "2"], ["s", "--since", "x"], ["s", "--limit", "0"]],
)
async def test_tail_when_the_arguments_are_wrong_ends_with_2(arguments: list[str]) -> None:
    code, out, err = await run_eda("tail", *arguments)
    assert (code, out) == (2, "")
    assert "Usage: " in err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("10006.2", "'10006.2' is a place in a pack, but `eda tail` begins with a whole message: give 10006"),
        ("2026-11-30", "'2026-11-30' is not a stream sequence: write a number from 1. For a time, use --since"),
        ("9223372036854775808", "is not a stream sequence"),
    ],
)
async def test_tail_when_the_start_is_no_sequence_says_what_it_takes(given: str, said: str) -> None:
    code, out, err = await run_eda("tail", "s", "--from", given)
    assert (code, out) == (2, "")
    assert said in err


# --- the output ------------------------------------------------------------------------------------------------------


@needs_posix
@pytest.mark.parametrize("options", [["--json"], ["--pretty"]], ids=["json", "pretty"])
@pytest.mark.parametrize("n", [1, 3000], ids=["idle", "busy"])
async def test_tail_when_its_reader_has_gone_ends_quietly(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, options: list[str], n: int
) -> None:
    await fill(conn, stream, n)
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "eda.cli", "tail", stream, "--addr", server.url, "--from", "1", *options),
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    assert await asyncio.to_thread(os.read, reading, 10)
    os.close(reading)
    async with asyncio.timeout(DEADLINE_S):
        _, err = await process.communicate()
    assert process.returncode == 1
    assert err == b""


@needs_posix
async def test_tail_when_its_reader_stops_reading_can_still_be_interrupted(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str
) -> None:
    await fill(conn, stream, 5000)
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "eda.cli", "tail", stream, "--addr", server.url, "--from", "1"),
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    try:
        assert await asyncio.to_thread(os.read, reading, 10)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_S):
            await process.wait()
    finally:
        os.close(reading)
    assert process.returncode == 143


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_tail_when_the_output_is_full_says_so(server: eda.EmbeddedServer, conn: eda.Conn, stream: str) -> None:
    await fill(conn, stream, 10)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "eda.cli", "tail", stream, "--addr", server.url),
            stdout=full,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(DEADLINE_S):
            _, err = await process.communicate()
    finally:
        os.close(full)
    assert process.returncode == 2
    assert err == b"Error: standard output can't be written: No space left on device\n"


@needs_posix
@pytest.mark.parametrize("options", ["", "--json", "--pretty"])
async def test_tail_when_the_output_is_closed_ends_quietly(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, options: str
) -> None:
    await conn.streams.create(stream)
    await conn.publish(stream, eda.Event(data=eda.JSON("ä")))
    line = f"'{sys.executable}' -m eda.cli tail {stream} --addr {server.url} --no-follow --limit 1 {options} >&-"
    process = await asyncio.create_subprocess_shell(line, stderr=subprocess.PIPE)
    async with asyncio.timeout(DEADLINE_S):
        _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")


@pytest.mark.timeout(120)
async def test_tail_when_the_stream_is_long_prints_every_event_once_and_in_order(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, tmp_path: Path
) -> None:
    await fill(conn, stream, 100_000)
    with (tmp_path / "lines").open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "eda.cli", "tail", stream, "--addr", server.url, "--from", "1", "--no-follow"),
            stdout=file,
        )
        async with asyncio.timeout(DEADLINE_S):
            assert await process.wait() == 0
    with (tmp_path / "lines").open("rb") as file:
        assert [json.loads(line)["data"] for line in file] == list(range(100_000))
