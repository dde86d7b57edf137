"""`eda replay` as its users run it: a process of its own, against a real server."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from typing import Any

import pytest

import eda
from eda._codec import decode_event
from eda.jetstream.schemas import nanoseconds
from helpers import until
from support.cli.commands import run_eda
from support.cli.terminal import run_in_terminal

GAP_S = 0.6


@pytest.fixture
async def conn(shop: eda.Conn) -> eda.Conn:
    await shop.streams.create("orders")
    await shop.streams.create("test")
    return shop


async def publish(conn: eda.Conn, n_events: int, *, gap_s: float = 0.0) -> None:
    for number in range(n_events):
        if number and gap_s:
            await asyncio.sleep(gap_s)  # the stream has to store the events at these distances
        event = eda.Event(id=f"e{number}", type=f"type-{number % 2}", cause="c", data=eda.JSON({"n": number}))
        await conn.publish("orders", event)


async def ids_and_times(conn: eda.Conn, stream: str) -> list[tuple[str, float]]:
    """Return the ids of the stream's events, and when each was stored, in seconds."""
    services = conn._lifetime._services
    assert services is not None
    found = []
    for sequence in range(1, (await conn.streams.info(stream)).last_sequence + 1):
        message = await services.api.message(stream, {"seq": sequence})
        found.append((decode_event(message.data).id, nanoseconds(message.time) / 1e9))
    return found


async def replayed(own_server: eda.EmbeddedServer, *arguments: str, code: int = 0) -> dict[str, Any]:
    ended, out, err = await run_eda("replay", "orders", *arguments, "--addr", own_server.url, "--json")
    assert (ended, err) == (code, "")
    told: dict[str, Any] = json.loads(out)
    return told


@pytest.mark.parametrize("speed", ["1", "4x", "max"])
async def test_replay_when_paced_keeps_the_distances_divided_by_the_speed(
    own_server: eda.EmbeddedServer, conn: eda.Conn, speed: str
) -> None:
    await publish(conn, 3, gap_s=GAP_S)
    told = await replayed(own_server, "--into", "test", "--speed", speed)
    assert (told["stored"], told["complete"]) == (3, True)
    before, after = await ids_and_times(conn, "orders"), await ids_and_times(conn, "test")
    assert [each for each, _ in after] == [each for each, _ in before]
    length = (before[-1][1] - before[0][1]) / {"1": 1.0, "4x": 4.0, "max": 1e9}[speed]
    # Events are stored a little later than they are sent, and each by another time.
    assert length - 0.15 < after[-1][1] - after[0][1] < length + 2.0


async def test_replay_when_there_is_a_longest_wait_waits_no_longer(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    await publish(conn, 3, gap_s=GAP_S)
    told = await replayed(own_server, "--into", "test", "--speed", "0.01", "--max-wait", "10ms")
    assert told["seconds"] < 2 * GAP_S / 0.01


async def test_replay_when_repeated_needs_new_ids(own_server: eda.EmbeddedServer, conn: eda.Conn) -> None:
    await publish(conn, 5)
    await replayed(own_server, "--into", "test", "--speed", "max")
    told = await replayed(own_server, "--into", "test", "--speed", "max", code=1)
    assert (told["stored"], told["duplicates"]) == (5, 5)
    code, _, err = await run_eda("replay", "orders", "--into", "test", "--speed", "max", "--addr", own_server.url)
    assert code == 1
    assert err == (
        "5 messages were in test already, and are not stored twice\n"
        "Add --new-ids to publish events again that the target has stored lately\n"
    )
    told = await replayed(own_server, "--into", "test", "--speed", "max", "--new-ids")
    assert (told["stored"], told["duplicates"]) == (5, 0)
    ids = [each for each, _ in await ids_and_times(conn, "test")]
    assert ids[:5] == [f"e{number}" for number in range(5)]
    assert len({*ids}) == 10


async def test_replay_when_into_the_same_stream_ends_with_what_was_there(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    await publish(conn, 5)
    code, _, err = await run_eda("replay", "orders", "--into", "orders", "--addr", own_server.url)
    assert code == 2
    assert "Add --new-ids" in err
    told = await replayed(own_server, "--into", "orders", "--speed", "max", "--new-ids", "--from", "2", "--to", "4")
    assert (told["stored"], told["duplicates"]) == (3, 0)
    assert (await conn.streams.info("orders")).events == 8


async def test_replay_when_there_is_no_target_prints_lines(own_server: eda.EmbeddedServer, conn: eda.Conn) -> None:
    await publish(conn, 5)
    code, out, err = await run_eda("replay", "orders", "--speed", "max", "--type", "type-0", "--addr", own_server.url)
    assert (code, err) == (0, "")
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["e0", "e2", "e4"]
    code, _, err = await run_eda("replay", "orders", "--new-ids", "--addr", own_server.url)
    assert code == 2
    assert "--new-ids needs --into" in err


@pytest.mark.parametrize("into", [True, False])
async def test_replay_when_interrupted_says_where_to_continue(
    own_server: eda.EmbeddedServer, conn: eda.Conn, into: bool
) -> None:
    await publish(conn, 3)
    await asyncio.sleep(1.1)  # the next event has to be stored that much later
    await conn.publish("orders", eda.Event(id="late", type="t"))
    arguments = ["replay", "orders", "--speed", "0.01", "--addr", own_server.url, *(["--into", "test"] if into else [])]
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "eda.cli", *arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    if into:
        await until(lambda: has_three(conn), timeout_s=60)
    else:
        assert process.stdout is not None
        for _ in range(3):
            assert await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert time.monotonic() - began < 60
    (line,) = [line for line in err.decode().splitlines() if line.startswith("not finished")]
    place = line.removeprefix("not finished: continue with --from ")
    code, out, _ = await run_eda("replay", "orders", "--speed", "max", "--from", place, "--addr", own_server.url)
    assert code == 0
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["late"]


async def has_three(conn: eda.Conn) -> bool:
    return (await conn.streams.info("test")).events == 3


@pytest.mark.parametrize("columns", [80, 200])
async def test_replay_when_in_a_terminal_ends_with_one_line(
    own_server: eda.EmbeddedServer, conn: eda.Conn, columns: int
) -> None:
    await publish(conn, 3)
    shown = await run_in_terminal(*("replay", "orders", "--into", "test", "--addr", own_server.url), columns=columns)
    assert shown.code == 0
    assert shown.end.splitlines()[-1].startswith("3 events replayed from orders to test in ")
