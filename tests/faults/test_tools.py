"""What does the harm does it: the proxy, and the killing of processes."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest

from helpers import listening, until
from processes import kill_at_random
from support.transport.faulty_proxy import DOWN, UP, FaultyProxy

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def echo() -> AsyncIterator[FaultyProxy]:
    """A proxy before a server that sends back what it gets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    async with listening(serve) as port, FaultyProxy(port) as proxy:
        yield proxy


@pytest.fixture
async def ends(echo: FaultyProxy) -> AsyncIterator[Ends]:
    reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
    yield reader, writer
    writer.transport.abort()


async def test_cut_when_it_is_due_within_a_frame_passes_what_is_before_it(echo: FaultyProxy, ends: Ends) -> None:
    reader, writer = ends
    echo.cut_after(3, UP)
    writer.write(b"PING\r\n")
    await until(lambda: echo.n_cut == 1)
    assert echo.n_bytes[UP] == 3
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(6)


async def test_faults_when_they_delay_throttle_or_crumble_pass_all_later(echo: FaultyProxy, ends: Ends) -> None:
    reader, writer = ends
    # Both directions are slow, and at work at the same time.
    for fault, value, least_s in (("delay_s", 0.1, 0.2), ("rate", 1000.0, 0.3), ("one_byte", True, 0.0)):
        setattr(echo, fault, value)
        begin = time.monotonic()
        writer.write(bytes(198) + b"\r\n")
        assert await reader.readexactly(200) == bytes(198) + b"\r\n"
        assert time.monotonic() - begin >= least_s
        setattr(echo, fault, type(value)(0) if fault != "rate" else None)


async def test_hold_when_released_passes_what_was_held(echo: FaultyProxy, ends: Ends) -> None:
    reader, writer = ends
    echo.hold()
    writer.write(b"a\r\n")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(reader.read(3), 0.1)
    echo.release()
    assert await reader.readexactly(3) == b"a\r\n"


async def test_lost_when_it_is_one_direction_passes_the_other(echo: FaultyProxy, ends: Ends) -> None:
    reader, writer = ends
    echo.lost = {DOWN}
    writer.write(b"a\r\n")
    await until(lambda: echo.n_bytes[UP] == 3)
    await asyncio.sleep(0.05)
    echo.lost = set()
    writer.write(b"b\r\n")
    assert await reader.readexactly(3) == b"b\r\n"


async def test_change_and_drop_when_given_see_whole_messages(echo: FaultyProxy, ends: Ends) -> None:
    reader, writer = ends
    echo.drop_if = lambda message: message == b"MSG a 1 2\r\n\r\n\r\n"
    echo.change = lambda message: message.replace(b"+OK", b"-ERR")
    for part in (b"MSG a 1 2\r", b"\n\r\n\r\n+O", b"K\r\n"):
        writer.write(part)
        await asyncio.sleep(0.02)
    assert await reader.readexactly(6) == b"-ERR\r\n"
    assert echo.n_dropped == 1


async def test_kill_when_the_seed_is_the_same_comes_at_the_same_moment() -> None:
    took = []
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])  # noqa: ASYNC220
        begin = time.monotonic()
        await kill_at_random(process, random.Random(7), 0.5)
        took.append(time.monotonic() - begin)
        assert process.returncode == -signal.SIGKILL
    moment = random.Random(7).random() * 0.5
    assert all(each >= moment for each in took)
