"""eda.run: a program under signals, as a service manager and a terminal send them."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import eda
from helpers import LOOPS, Admin
from support.cursors.member import Keys

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals between processes")

SIGNALS = [signal.SIGINT, signal.SIGTERM]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 0}
PATIENCE_S = 20.0

SERVICE = """
    import asyncio, os, sys
    import eda

    async def main():
        async with eda.connect(os.environ["URL"], client="svc") as conn:
            async def handle(event):
                print("handled", event.sequence, flush=True)

            options = dict(name="n", durable=True, backfill=True, **{options})
            async with conn.subscribe(os.environ["STREAM"], handle, **options) as sub:
                await sub.wait()

    eda.run(main(), loop_factory={loop})
    print("after run", flush=True)
"""


class Program:
    """A Python program of its own."""

    def __init__(self, code: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-X", "dev", "-c", textwrap.dedent(code)],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.seen = b""

    def says(self, text: str) -> None:
        """Wait until it has printed the text."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE_S
        while text.encode() not in self.seen:
            assert time.monotonic() < deadline, (self.seen, self.process.poll())
            if select.select([self.process.stdout], [], [], 0.1)[0]:
                read = os.read(self.process.stdout.fileno(), 65536)
                self.seen += read
                assert read or text.encode() in self.seen, (self.seen, self.process.communicate()[1])

    def ends(self) -> tuple[int, str, str]:
        """Wait until it has ended; returns its code, and what it wrote to stdout (from here on) and stderr."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        # On a busy machine, asyncio's debug mode reports a slow step of a task.
        errors = re.sub(r"(?m)^Executing <.*> took [\d.]+ seconds\n", "", err.decode())
        return self.process.returncode, out.decode().lstrip("\n"), errors


@pytest.fixture
def program() -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def start(code: str, **environment: str) -> Program:
        started.append(Program(code, **environment))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


async def in_thread(work: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.to_thread(work, *args)


@pytest.mark.parametrize("signum", SIGNALS)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", ["serial", "shared"])
async def test_run_when_a_signal_comes_closes_everything_in_order_without_a_traceback(
    conn: eda.Conn,
    stream: str,
    admin: Admin,
    server: eda.EmbeddedServer,
    program: Callable[..., Program],
    signum: signal.Signals,
    loop: str,
    kind: str,
) -> None:
    for _ in range(3):
        await conn.publish(stream)
    factory = "None" if loop == "asyncio" else "__import__('uvloop').new_event_loop"
    code = SERVICE.format(options={"serial": True} if kind == "serial" else {}, loop=factory)
    service = program(code, URL=server.url, STREAM=stream)
    await in_thread(service.says, "handled 3")
    begin = time.monotonic()
    service.process.send_signal(signum)
    returncode, out, err = await in_thread(service.ends)
    assert time.monotonic() - begin < 5
    assert (returncode, out, err) == (CODES[signum], "", "")
    if kind == "serial":
        kept = await Keys(admin, stream, "n").get()
        assert kept is not None
        assert (kept["holder"], kept["seq"]) == ("", 3)
    else:
        consumer = await admin.consumer(stream, "n")
        assert (consumer["ack_floor"]["stream_seq"], consumer["num_ack_pending"]) == (3, 0)


@pytest.mark.parametrize("signum", SIGNALS)
async def test_run_when_a_signal_comes_while_the_server_is_frozen_ends_soon(
    own_server: eda.EmbeddedServer, program: Callable[..., Program], signum: signal.Signals
) -> None:
    async with eda.connect(own_server.url) as conn:
        await conn.publish("s")
    service = program(SERVICE.format(options={"serial": True}, loop=None), URL=own_server.url, STREAM="s")
    await in_thread(service.says, "handled 1")
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        service.process.send_signal(signum)
        returncode, _, err = await in_thread(service.ends)
        assert time.monotonic() - begin < 8
        assert returncode == CODES[signum]
        assert "Traceback" not in err
    finally:
        os.kill(own_server.pid, signal.SIGCONT)


@pytest.mark.parametrize("signum", SIGNALS)
def test_run_when_a_second_signal_comes_ends_at_once(program: Callable[..., Program], signum: signal.Signals) -> None:
    stubborn = program("""
        import asyncio, eda

        async def main():
            print("ready", flush=True)
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    print("cancelled", flush=True)

        eda.run(main())
    """)
    stubborn.says("ready")
    stubborn.process.send_signal(signum)
    stubborn.says("cancelled")
    stubborn.process.send_signal(signum)
    returncode, out, err = stubborn.ends()
    assert (returncode, out, err) == (-signum, "", "")


@pytest.mark.parametrize("loop", ["None", "__import__('uvloop').new_event_loop"], ids=["asyncio", "uvloop"])
def test_run_when_a_signal_comes_just_before_the_loop_waits_wakes_it(
    program: Callable[..., Program], loop: str
) -> None:
    service = program(f"""
        import asyncio, eda, signal

        async def main():
            waker = signal.set_wakeup_fd(-1)
            signal.set_wakeup_fd(waker)
            print("ready", waker >= 0, flush=True)
            await asyncio.sleep(60)

        eda.run(main(), loop_factory={loop})
    """)
    service.says("ready True")
    service.process.send_signal(signal.SIGTERM)
    assert service.ends() == (0, "", "")


def test_run_when_main_handles_its_cancellation_returns_its_result(program: Callable[..., Program]) -> None:
    service = program("""
        import asyncio, eda

        async def main():
            print("ready", flush=True)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)  # not cancelled again
                return "done"

        print("result", eda.run(main()), flush=True)
    """)
    service.says("ready")
    service.process.send_signal(signal.SIGTERM)
    assert service.ends() == (0, "result done\n", "")


def test_run_when_main_fails_while_it_is_cancelled_raises_that(program: Callable[..., Program]) -> None:
    service = program("""
        import asyncio, eda

        async def main():
            print("ready", flush=True)
            try:
                await asyncio.sleep(60)
            finally:
                raise ValueError("while leaving")

        eda.run(main())
    """)
    service.says("ready")
    service.process.send_signal(signal.SIGTERM)
    returncode, _, err = service.ends()
    assert returncode == 1
    assert "ValueError: while leaving" in err


@pytest.mark.parametrize("ends", ["signal", "return"])
async def test_run_when_main_leaves_connections_open_closes_them(
    conn: eda.Conn, stream: str, admin: Admin, server: eda.EmbeddedServer, program: Callable[..., Program], ends: str
) -> None:
    await conn.publish(stream)
    service = program(
        """
        import asyncio, os, sys
        import eda

        async def main():
            handled = asyncio.Event()

            async def handle(event):
                handled.set()

            conn = await eda.connect(os.environ["URL"], client="svc")
            await conn.subscribe(os.environ["STREAM"], handle, name="n", durable=True, serial=True, backfill=True)
            await handled.wait()
            print("ready", flush=True)
            if os.environ["ENDS"] == "signal":
                await asyncio.sleep(60)

        eda.run(main())
        """,
        URL=server.url,
        STREAM=stream,
        ENDS=ends,
    )
    await in_thread(service.says, "ready")
    if ends == "signal":
        service.process.send_signal(signal.SIGTERM)
    assert await in_thread(service.ends) == (0, "", "")
    kept = await Keys(admin, stream, "n").get()
    assert kept is not None
    assert (kept["holder"], kept["seq"]) == ("", 1)


def test_run_when_the_program_handles_a_signal_itself_leaves_it_alone(program: Callable[..., Program]) -> None:
    service = program("""
        import asyncio, signal, eda

        signal.signal(signal.SIGTERM, lambda *_: print("mine", flush=True))
        signal.signal(signal.SIGINT, signal.SIG_IGN)

        async def main():
            print("ready", flush=True)
            await asyncio.sleep(1)
            return "done"

        print(eda.run(main()), flush=True)
    """)
    service.says("ready")
    service.process.send_signal(signal.SIGTERM)
    service.says("mine")
    service.process.send_signal(signal.SIGINT)
    returncode, _, err = service.ends()
    assert (returncode, err) == (0, "")
    assert b"mine" in service.seen


def test_run_when_it_ends_restores_what_signals_did() -> None:
    async def main() -> int:
        return 7

    before = [signal.getsignal(each) for each in SIGNALS]
    assert eda.run(main()) == 7
    assert [signal.getsignal(each) for each in SIGNALS] == before


@pytest.mark.parametrize("loop", LOOPS)
def test_run_when_a_loop_factory_is_given_uses_it(loop: str) -> None:
    async def main() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert eda.run(main(), loop_factory=LOOPS[loop]).startswith(loop)


def test_run_when_main_raises_raises_that() -> None:
    async def main() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        eda.run(main())


def test_run_when_main_cancels_itself_raises_that() -> None:
    async def main() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        eda.run(main())


async def test_run_when_a_loop_is_running_is_refused() -> None:
    async def main() -> None: ...

    with pytest.raises(eda.ConfigError, match="await main"):
        eda.run(main())


@pytest.mark.parametrize("main", [None, print, asyncio.sleep, 1])
def test_run_when_main_is_no_coroutine_is_refused(main: Any) -> None:
    with pytest.raises(eda.ConfigError, match="must be a coroutine") as caught:
        eda.run(main)
    assert caught.value.argument == "main"


async def test_run_when_in_another_thread_runs_without_signals() -> None:
    async def main() -> str:
        return "done"

    assert await asyncio.to_thread(lambda: eda.run(main())) == "done"


async def test_run_when_connections_come_and_go_keeps_none_of_them(server: eda.EmbeddedServer) -> None:
    def program() -> int:
        async def main() -> int:
            for _ in range(3):
                async with eda.connect(server.url) as conn:
                    opened = conn._lifetime._opened_in
            assert opened is not None
            return len(opened)

        return eda.run(main())

    assert await asyncio.to_thread(program) == 0


async def test_signal_when_it_comes_before_main_begins_ends_it(program: Callable[..., Program]) -> None:
    service = program("""
        import asyncio, os, signal, eda

        class Loop(asyncio.SelectorEventLoop):
            def create_task(self, coro, **options):
                if not done:
                    done.append(1)
                    os.kill(os.getpid(), signal.SIGTERM)
                return super().create_task(coro, **options)

        done = []

        async def main():
            await asyncio.sleep(60)

        eda.run(main(), loop_factory=Loop)
    """)
    assert await in_thread(service.ends) == (0, "", "")
