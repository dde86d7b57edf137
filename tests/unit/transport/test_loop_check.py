"""_loop_check: the same answers as asyncio's own, in other loops, threads and processes."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from asyncio import _get_running_loop as running_loop
from asyncio import _set_running_loop as set_running_loop
from collections.abc import Callable

import pytest

from eda.transport._loop_check import LoopCheck
from helpers import LOOPS


def check_of(asked: list[None]) -> LoopCheck:
    """Return the check of the running loop. `asked` grows when asyncio is asked."""

    def ask() -> asyncio.AbstractEventLoop | None:
        asked.append(None)
        return running_loop()

    return LoopCheck(asyncio.get_running_loop(), ask)


def in_child(passes: Callable[[], bool]) -> bool:
    """Return what a forked child finds."""
    child = os.fork()
    if child == 0:
        os._exit(10 + passes())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11


@pytest.mark.parametrize("kind", LOOPS)
def test_passes_is_true_only_while_the_loop_runs(kind: str) -> None:
    loop, other = LOOPS[kind](), LOOPS[kind]()
    checks: list[LoopCheck] = []

    async def make() -> bool:
        checks.append(check_of([]))
        return checks[0].passes() and checks[0].passes()

    async def passes() -> bool:
        return checks[0].passes()

    try:
        assert loop.run_until_complete(make())
        for _ in range(3):
            assert not checks[0].passes()
            assert not other.run_until_complete(passes())
            assert loop.run_until_complete(passes())
    finally:
        loop.close()
        other.close()


@pytest.mark.parametrize("kind", LOOPS)
def test_passes_when_it_is_first_asked_after_the_loop_has_ended_is_false(kind: str) -> None:
    loop = LOOPS[kind]()
    checks: list[LoopCheck] = []

    async def make() -> None:
        checks.append(check_of([]))

    loop.run_until_complete(make())
    assert not checks[0].passes()
    loop.close()


async def test_passes_when_a_loop_is_nested_in_the_loop_is_false() -> None:
    check, other = check_of([]), asyncio.new_event_loop()
    mine = asyncio.get_running_loop()
    assert check.passes()
    set_running_loop(other)
    try:
        assert not check.passes()
    finally:
        set_running_loop(mine)
        other.close()
    assert check.passes()


async def test_passes_in_another_thread_is_false() -> None:
    check, found = check_of([]), list[bool]()
    assert check.passes()
    for work in (lambda: found.append(check.passes())), (lambda: asyncio.run(passes_in(check, found))):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found == [False, False]
    assert check.passes()


async def passes_in(check: LoopCheck, found: list[bool]) -> None:
    found.append(check.passes())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
async def test_passes_in_a_forked_child_is_as_asyncio_says() -> None:
    seen, fresh = check_of([]), check_of([])
    assert seen.passes()
    expected = in_child(lambda: running_loop() is not None)
    assert in_child(seen.passes) == in_child(fresh.passes) == expected
    assert in_child(lambda: in_child(seen.passes)) == expected
    assert seen.passes()


async def test_passes_asks_asyncio_only_once_where_the_answer_takes_a_system_call() -> None:
    asked: list[None] = []
    check = check_of(asked)
    assert [check.passes() for _ in range(5)] == [True] * 5
    await asyncio.sleep(0)
    assert check.passes()
    assert len(asked) == (1 if sys.version_info < (3, 13) else 6)
