"""eda.run: a program's main coroutine, ended by signals as a service manager and a terminal expect it."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

from eda.errors import ConfigError
from eda.lifetime import closing_what_is_left

__all__ = ["run"]

T = TypeVar("T")

SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK")  # the last one is Windows'


def run(main: Coroutine[Any, Any, T], *, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> T:
    """Run a program's main coroutine in an event loop of its own, and return its result: `eda.run(main())`.

    The first SIGINT or SIGTERM cancels `main` once. Its `async with` blocks then close in order, within 2 s each: the
    positions of what was handled are stored, and cursors are given up. Connections that `main` has left open are closed
    as well. Then the process ends without a traceback (SystemExit), after SIGTERM with code 0, after SIGINT with 130. A
    `main` that returns all the same has its result returned. A second signal ends the process at once, by that signal.

    `loop_factory` makes the loop, such as `uvloop.new_event_loop`; None: asyncio's. Signals that the program handles or
    ignores itself stay as they are; so do all of them when this is not called in the main thread.

    Raises what `main` raises. Raises ConfigError when there is a running loop already, and for a `main` that is no
    coroutine.
    """
    _check_coroutine(main)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        main.close()
        raise ConfigError("eda.run() starts an event loop, and one is running here: await main() instead")
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
        main.close()  # no effect once it has run


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
    """What signals do: the first one cancels `main`, another one kills."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.main: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._before: dict[int, Any] = {}

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

    def uninstall(self) -> None:
        for signum, before in self._before.items():
            signal.signal(signum, before)
        self._before.clear()

    def begin(self, main: asyncio.Task[Any] | None) -> None:
        self.main = main
        if self.signum is not None:
            self._cancel()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        self.signum = signum
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self.main is not None and not self.main.done():
            self.main.cancel()
            self.main = None  # once
