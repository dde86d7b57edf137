"""eda.callbacks: what is refused as a callback, and what a callback may do without harm."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import AsyncMock

import pytest

import eda
from eda.callbacks import Callback, check_callback
from helpers import Logged

LOGGER = logging.getLogger("eda")


async def coroutine_function(*_: object) -> None:
    pass


async def async_generator_function(*_: object) -> AsyncIterator[int]:
    yield 1


def generator_function(*_: object) -> Iterator[int]:
    yield 1


class AsyncCall:
    async def __call__(self, *_: object) -> None:
        pass

    async def method(self, *_: object) -> None:
        pass


CULPRITS: dict[str, Any] = {
    "coroutine-function": coroutine_function,
    "async-generator-function": async_generator_function,
    "generator-function": generator_function,
    "object": AsyncCall(),
    "method": AsyncCall().method,
    "partial": functools.partial(coroutine_function, 1),
    "partial-of-partial": functools.partial(functools.partial(coroutine_function, 1), 2),
    "partial-of-object": functools.partial(AsyncCall(), 1),
    "mock": AsyncMock(),
    "router": eda.Router(),
}


@pytest.mark.parametrize("call", CULPRITS.values(), ids=CULPRITS)
def test_check_when_calling_it_runs_nothing_raises_with_its_name(call: Any) -> None:
    with pytest.raises(eda.ConfigError, match="on_x must be a plain function") as caught:
        check_callback("on_x", call)
    assert caught.value.argument == "on_x"


@pytest.mark.parametrize("call", [5, "print", []], ids=str)
def test_check_when_it_is_not_callable_raises_with_its_name(call: Any) -> None:
    with pytest.raises(eda.ConfigError, match="on_x must be callable or None"):
        check_callback("on_x", call)


@pytest.mark.parametrize("call", [None, print, [].append, functools.partial(print, 1), dict, lambda *_: None], ids=type)
def test_check_when_it_is_plain_says_nothing(call: Any) -> None:
    check_callback("on_x", call)


async def test_callback_when_it_returns_a_coroutine_closes_it_and_says_so_once(logged: Logged) -> None:
    logged.expect("on_x returned an awaitable")
    callback = Callback("on_x", lambda *args: coroutine_function(*args), LOGGER)
    for i in range(3):
        callback(i)
    assert len(logged.find("on_x returned")) == 1


async def test_callback_when_it_starts_a_task_lets_it_run() -> None:
    tasks: list[asyncio.Task[None]] = []

    def start(*_: object) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(coroutine_function()))
        return tasks[-1]

    Callback("on_x", start, LOGGER)(1)
    await asyncio.wait_for(tasks[0], 10)


class Own(BaseException):
    """What is no Exception."""


@pytest.mark.parametrize("raised", [RuntimeError, Own, asyncio.CancelledError, GeneratorExit])
async def test_callback_when_it_raises_is_logged(raised: type[BaseException], logged: Logged) -> None:
    logged.expect(r"on_x\('e', 3\) failed")

    def fail(*_: object) -> None:
        raise raised("on purpose")

    Callback("on_x", fail, LOGGER)("e", 3)
    await asyncio.sleep(0)


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt])
def test_callback_when_it_is_to_end_the_program_ends_the_loop_afterwards(raised: type[BaseException]) -> None:
    went_on = False

    def fail(*_: object) -> None:
        raise raised("on purpose")

    async def main() -> None:
        nonlocal went_on
        Callback("on_x", fail, logging.getLogger("test"))(1)
        went_on = True
        await asyncio.sleep(5)

    with pytest.raises(raised, match="on purpose"):
        asyncio.run(main())
    assert went_on


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt])
def test_callback_when_each_call_is_to_end_the_program_leaves_its_clean_up_alone(raised: type[BaseException]) -> None:
    """Acknowledgements come many at a time: the second exit would end the clean-up that the first one began."""
    cleaned = False

    def fail(*_: object) -> None:
        raise raised("on purpose")

    async def main() -> None:
        nonlocal cleaned
        callback = Callback("on_x", fail, logging.getLogger("test"))
        for n in range(3):
            callback(n)
        try:
            await asyncio.sleep(5)
        finally:
            callback(4)
            await asyncio.sleep(0.01)
            cleaned = True

    with pytest.raises(raised, match="on purpose"):
        asyncio.run(main())
    assert cleaned
