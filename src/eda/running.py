"""`eda.run`: runs a program's main coroutine, and ends it in order on SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

from eda.errors import ConfigError
from eda.lifetime import closing_what_is_left

__all__ = ["run"]

T = TypeVar("T")

SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK")  # SIGBREAK exists on Windows only


def run(main: Coroutine[Any, Any, T], *, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> T:
    """Run a program's main coroutine in an event loop of its own, and return its result: `eda.run(main())`.

    The first SIGINT or SIGTERM cancels `main` once. Its `async with` blocks then close in order, within 2 s each: each
    subscription stores its position and releases its cursor. Connections that `main` left open are closed as well. Then
    the process ends without a traceback (SystemExit): with code 0 after SIGTERM, with 130 after SIGINT. If `main`
    returns in spite of the cancellation, its result is returned. A second signal kills the process at once.

    `loop_factory` makes the event loop, for example `uvloop.new_event_loop`; None: asyncio's. A signal that the program
    itself handles or ignores keeps that handling. Outside the main thread no signal is handled.

    Raises what `main` raises. Raises ConfigError if an event loop is running already, or if `main` is not a coroutine.
    """
    _check_coroutine(main)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        main.close()
        raise ConfigError("eda.run() starts an event loop, but one is running already: await main() instead")
    ending = _Ending()
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            ending.install(runner.get_loop())
            return runner.run(_program(main, ending))
    except asyncio.CancelledError:
        if ending.signum is None:
            raise
        raise SystemExit(_exit_code(ending.signum)) from None
    finally:
        ending.uninstall()
        main.close()  # so that Python does not warn about a coroutine that never ran


def _check_coroutine(main: object) -> None:
    if not inspect.iscoroutine(main):
        raise ConfigError(f"main must be a coroutine, such as main(), not {main!r}", argument="main")


async def _program(main: Coroutine[Any, Any, T], ending: _Ending) -> T:
    ending.begin(asyncio.current_task())
    async with closing_what_is_left():
        return await main


def _exit_code(signum: int) -> int:
    return 0 if signum == getattr(signal, "SIGTERM", None) else 128 + signum


class _Ending:
    """The signal handler of a run: the first signal cancels `main`, the second one kills the process."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.main: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._before: dict[int, Any] = {}
        self._wakers: tuple[socket.socket, ...] = ()

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        for name in SIGNALS:
            signum = getattr(signal, name, None)
            if signum is None or signal.getsignal(signum) not in (signal.SIG_DFL, signal.default_int_handler):
                continue
            try:
                self._before[signum] = signal.signal(signum, self._on_signal)
            except ValueError:
                return  # not the main thread
        if self._before:
            self._wake_for_signals(loop)

    def _wake_for_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the event loop wake up for a signal that comes just before it begins to wait.

        Otherwise the handler is called when the loop wakes up for something else.
        """
        before = signal.set_wakeup_fd(-1)
        if before != -1:  # asyncio's loop on Windows, or the program, has seen to it
            signal.set_wakeup_fd(before)
            return
        self._wakers = socket.socketpair()
        for each in self._wakers:
            each.setblocking(False)
        woken, waker = self._wakers
        loop.add_reader(woken, woken.recv, 4096)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)

    def uninstall(self) -> None:
        if self._wakers:
            now = signal.set_wakeup_fd(-1)
            if now != self._wakers[1].fileno():
                signal.set_wakeup_fd(now)
            for each in self._wakers:
                each.close()
            self._wakers = ()
        for signum, before in self._before.items():
            signal.signal(signum, before)
        self._before.clear()

    def begin(self, main: asyncio.Task[Any] | None) -> None:
        self.main = main
        if self.signum is not None:
            self._cancel()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:  # two signals came before this handler was called
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        self.signum = signum
        # From now on the system ends the process. A handler of Python may be called late: if a signal comes just before
        # the event loop begins to wait, it is called when the loop wakes up.
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self.main is not None and not self.main.done():
            self.main.cancel()
            self.main = None  # cancel it only once
