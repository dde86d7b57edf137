"""`eda bench` as its users run it: a process of its own, against real servers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest
from click.testing import CliRunner
from nats.js.errors import BucketNotFoundError, NoKeysError

import eda
from eda.cli.bench import bench
from helpers import until
from support.cli.commands import DEADLINE_S, published, run_eda, run_interrupted

N_EVENTS = 3000

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
async def conn(own_server: eda.EmbeddedServer) -> AsyncIterator[eda.Conn]:
    """A user's connection to a server of its own."""
    async with eda.connect(own_server.url, client="user") as conn:
        yield conn


async def make_own(conn: eda.Conn) -> None:
    """Make what a user has on a server: a stream with an event, and the cursor of a subscription."""
    await conn.publish("mine", eda.Event(type="kept"))
    async with conn.subscribe(
        "mine", lambda _: None, name="reader", durable=True, exclusive=True, backfill=True
    ) as sub:
        await until(lambda: sub.stats().handled)


async def cursors(server: eda.EmbeddedServer) -> list[str]:
    """Give the keys that the bucket of cursors has."""
    client = await nats.connect(server.url)
    try:
        bucket = await client.jetstream().key_value("eda-cursors")
        return sorted(await bucket.keys())
    except (NoKeysError, BucketNotFoundError):
        return []
    finally:
        await client.close()


async def assert_only_own_left(server: eda.EmbeddedServer, conn: eda.Conn) -> None:
    streams = {info.name: info.events for info in await conn.streams.list()}
    bucket = streams.pop("KV_eda-cursors", None)
    assert streams == {"mine": 1}
    assert bucket is not None
    assert await cursors(server) == ["mine.reader"]


def assert_agrees(report: dict[str, Any], n_subscriptions: int = 1) -> None:
    """Check that the figures are of one run, and fit each other."""
    assert report["ok"] is True
    assert set(report["check"].values()) == {0}
    assert report["subscriptions"] == n_subscriptions
    for side, n in (("publish", report["events"]), ("handle", report["events"] * n_subscriptions)):
        figures = report[side]
        assert figures["events_per_s"] == pytest.approx(n / figures["seconds"], rel=0.01)
        assert figures["mb_per_s"] == pytest.approx(figures["events_per_s"] * report["size"] / 1e6, rel=0.01)
        assert 0 < figures["cpu_us_per_event"] < DEADLINE_S * 1e6 / n
        if sys.platform == "linux":
            assert 10 < figures["peak_memory_mb"] < 1000
    times = report["publish_to_handler_ms"]
    assert 0 < times["p50"] <= times["p99"] < DEADLINE_S * 1000


async def test_bench_when_embedded_publishes_what_was_asked_and_prints_json_only() -> None:
    sizes = ("--size", "500", "--encoding", "json")
    numbers = ("--events", str(N_EVENTS), "--publishers", "2", "--subscriptions", "2")
    code, out, err = await run_eda("bench", *numbers, *sizes, "--mode", "window", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert_agrees(report, 2)
    asked = {"events": N_EVENTS, "size": 500, "encoding": "json", "publishers": 2, "kind": "shared", "mode": "window"}
    assert asked.items() <= report.items()
    assert "embedded" in report["server"]


@pytest.mark.parametrize("mode", ["window", "fast"])
@pytest.mark.parametrize("kind", ["shared", "exclusive", "serial"])
async def test_bench_when_packed_loses_nothing_and_keeps_the_order(kind: str, mode: str) -> None:
    numbers = ("--events", str(N_EVENTS), "--publishers", "2", "--subscriptions", "2", "--mode", mode)
    kinds = () if kind == "shared" else (f"--{kind}",)
    code, out, err = await run_eda("bench", "--packed", *numbers, *kinds, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert_agrees(report, 2)
    assert (report["events"], report["kind"], report["packed"], report["mode"]) == (N_EVENTS, kind, True, mode)


async def test_bench_when_given_seconds_publishes_for_so_long_and_prints_bars_and_table() -> None:
    code, out, err = await run_eda("bench", "--seconds", "0.3", "--size", "16")
    assert (code, err) == (0, "")
    for text in ("publish ", "handle ", "events of 16 bytes", "events/s", "MB/s", "client CPU", "p50", "p99", "memory"):
        assert text in out
    assert "publisher mode" in out
    assert "check passed" in out


@pytest.mark.parametrize("kind", ["exclusive", "serial"])
async def test_bench_when_given_a_server_leaves_nothing_there_and_all_else_alone(
    kind: str, own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    await make_own(conn)
    addr = ("--addr", own_server.url)
    code, out, err = await run_eda("bench", "--seconds", "0.3", "--subscriptions", "2", f"--{kind}", "--json", *addr)
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert_agrees(report, 2)
    assert (report["kind"], report["size"], report["encoding"]) == (kind, 128, "bytes")
    assert 0.3 <= report["publish"]["seconds"] < DEADLINE_S
    assert str(own_server.port) in report["server"]
    assert own_server.token not in out
    await assert_only_own_left(own_server, conn)


@posix_only
@pytest.mark.parametrize(("by", "code", "said"), [("SIGINT", 130, "interrupted\n"), ("SIGTERM", 143, "terminated\n")])
async def test_bench_when_interrupted_leaves_nothing(
    own_server: eda.EmbeddedServer, conn: eda.Conn, by: str, code: int, said: str
) -> None:
    arguments = ("bench", "--seconds", "600", "--exclusive", "--json", "--addr", own_server.url)
    assert await run_interrupted(conn, *arguments, by=signal.Signals[by]) == (code, "", said)
    streams = {info.name: info.events for info in await conn.streams.list()}
    assert set(streams) == {"KV_eda-cursors"}
    assert await cursors(own_server) == []


def children_of(pid: int) -> dict[str, int]:
    """Give the sides that run below a process, by name."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0") for child in children}
    return {words[3].decode(): child for child, words in commands.items() if b"eda.cli.worker" in words}


@linux_only
async def test_bench_when_its_handling_side_is_killed_fails_and_leaves_nothing(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "eda.cli", "bench", "--seconds", "600", "--serial", "--addr", own_server.url, "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        await published(conn)
        async with asyncio.timeout(DEADLINE_S):
            await until(lambda: cursors(own_server))
            os.kill(children_of(process.pid)["handle"], signal.SIGKILL)
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, out) == (1, b"")
    assert err.decode().splitlines()[-1].startswith("Error: the handle side failed: it ended with code -9")
    assert {info.name for info in await conn.streams.list()} == {"KV_eda-cursors"}
    assert await cursors(own_server) == []


async def test_bench_when_the_account_has_no_room_says_so_soon() -> None:
    users = [{"user": "me", "password": "secret-word"}]
    account = {"jetstream": {"max_file": 1_000_000, "max_mem": 0}, "users": users}
    config = {"authorization": {"timeout": 2}, "accounts": {"small": account}}
    async with eda.EmbeddedServer(config=config) as server:
        addr = f"nats://me:secret-word@127.0.0.1:{server.port}"
        code, out, err = await run_eda("bench", "--seconds", "600", "--size", "10000", "--json", "--addr", addr)
        assert (code, out) == (1, "")
        assert err.count("\n") == 1
        assert "resource limits exceeded for account" in err
        assert "secret-word" not in err
        async with eda.connect(addr) as conn:
            assert await conn.streams.list() == []


async def test_bench_when_the_server_has_no_jetstream_says_so_in_one_line() -> None:
    async with eda.EmbeddedServer(config={"jetstream": False}) as server:
        code, out, err = await run_eda("bench", "--addr", server.url)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith("Error: JetStream is not supported")


async def test_bench_when_it_may_not_make_a_stream_says_so() -> None:
    permissions = {"publish": {"deny": ["$JS.API.STREAM.CREATE.>"]}}
    config = {"authorization": {"users": [{"user": "me", "password": "secret", "permissions": permissions}]}}
    async with eda.EmbeddedServer(config=config) as server:
        code, out, err = await run_eda("bench", "--addr", f"nats://me:secret@127.0.0.1:{server.port}")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("Error: no permission to publish to $JS.API.STREAM.CREATE.eda-bench-")


async def test_bench_when_payloads_are_over_the_server_s_limit_says_so(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    code, out, err = await run_eda("bench", "--size", "2000000", "--json", "--addr", own_server.url)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "max_payload of 1048576" in err
    assert await conn.streams.list() == []


async def test_bench_when_no_server_answers_says_so_in_one_line() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers, and nobody else comes
        taken.bind(("127.0.0.1", 0))
        addr = f"nats://user:very-secret@127.0.0.1:{taken.getsockname()[1]}"
        code, out, err = await run_eda("bench", "--addr", addr)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith("Error: cannot connect to nats://127.0.0.1:")
    assert "very-secret" not in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--events 0", "--events"),
        ("--seconds 0", "--seconds"),
        ("--seconds nan", "--seconds"),
        ("--size 15", "--size"),
        ("--encoding json --size 60", "--size"),
        ("--encoding xml", "--encoding"),
        ("--publishers 0", "--publishers"),
        ("--subscriptions many", "--subscriptions"),
        ("--mode slow", "--mode"),
        ("--events 5 --seconds 5", "--seconds"),
        ("--serial --exclusive", "--exclusive"),
    ],
)
def test_bench_when_an_option_is_wrong_names_it(arguments: str, named: str) -> None:
    result = CliRunner().invoke(bench, arguments.split())
    assert result.exit_code == 2
    assert named in result.output
    assert "Traceback" not in result.output
