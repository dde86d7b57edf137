"""eda.handlers: functions that can't be handlers, and results that nobody runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from eda import Event, threaded
from eda.errors import ConfigError
from eda.handlers import check_handler, refuse_result

EVENT = Event(id="e1", type="paid")


def generator(event: Event) -> Iterator[None]:
    yield


async def agenerator(event: Event) -> AsyncIterator[None]:
    yield


async def coroutine(event: Event) -> None:
    """Handle."""


class Methods:
    """The same as methods."""

    def plain(self, event: Event) -> None:
        """Handle."""

    def generator(self, event: Event) -> Iterator[None]:
        yield

    async def agenerator(self, event: Event) -> AsyncIterator[None]:
        yield

    async def coroutine(self, event: Event) -> None:
        """Handle."""

    @staticmethod
    def static(event: Event) -> Iterator[None]:
        yield


class Called:
    """An object that is called."""

    def __call__(self, event: Event) -> None:
        """Handle."""


class GeneratorCalled:
    """An object whose call makes a generator."""

    def __call__(self, event: Event) -> Iterator[None]:
        yield


class CoroutineCalled:
    """An object whose call makes a coroutine."""

    async def __call__(self, event: Event) -> None:
        """Handle."""


GENERATORS = [
    generator,
    agenerator,
    functools.partial(generator),
    functools.partial(functools.partial(agenerator)),
    Methods().generator,
    Methods().agenerator,
    functools.partial(Methods().generator),
    Methods.static,
    GeneratorCalled(),
    functools.partial(GeneratorCalled()),
]
COROUTINES = [coroutine, functools.partial(coroutine), Methods().coroutine, CoroutineCalled()]


def name_of(case: object) -> str:
    return getattr(case, "__name__", type(case).__name__)


@pytest.mark.parametrize("function", [*GENERATORS, *COROUTINES, None, 7, "text"], ids=name_of)
def test_threaded_when_it_is_no_plain_function_raises_config_error(function: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        threaded(function)
    assert caught.value.argument == "function"


@pytest.mark.parametrize("workers", [0, -1, 1025, 1.0, True, "2", None])
def test_threaded_when_workers_are_out_of_range_raises_config_error(workers: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        threaded(print, workers)
    assert caught.value.argument == "workers"


@pytest.mark.parametrize(
    "function", [print, Methods().plain, Called(), functools.partial(print, end=""), repr, [].append]
)
async def test_threaded_when_it_is_any_plain_callable_runs_it(function: Any) -> None:
    await threaded(function, 2)(EVENT)


@pytest.mark.parametrize("handler", GENERATORS, ids=name_of)
def test_check_handler_when_it_is_a_generator_function_refuses_it(handler: Any) -> None:
    with pytest.raises(ConfigError, match="generator function") as caught:
        check_handler(handler, batch=False)
    assert caught.value.argument == "handler"


@pytest.mark.parametrize(
    "handler",
    [
        *COROUTINES,
        threaded(print),
        print,
        [].append,
        Methods().plain,
        Called(),
        list,
        lambda event, more=None: None,
        lambda *events: None,
        lambda event, **options: None,
        functools.partial(lambda event, more: None, more=1),
        functools.partial(lambda first, event: None, 1),
    ],
)
@pytest.mark.parametrize("batch", [False, True])
def test_check_handler_when_it_takes_one_argument_accepts_it(handler: Any, batch: bool) -> None:
    check_handler(handler, batch=batch)


@pytest.mark.parametrize(
    "handler",
    [
        lambda: None,
        lambda event, more: None,
        lambda *, event: None,
        lambda event, *, more: None,
        Methods.plain,
        functools.partial(coroutine, EVENT),
    ],
)
def test_check_handler_when_it_takes_no_single_argument_refuses_it(handler: Any) -> None:
    with pytest.raises(ConfigError, match="must take one argument, an event: ") as caught:
        check_handler(handler, batch=False)
    assert caught.value.argument == "handler"


def test_check_handler_when_in_batch_tells_what_the_argument_is() -> None:
    with pytest.raises(ConfigError, match="a list of events"):
        check_handler(lambda: None, batch=True)


def test_check_handler_when_decorated_looks_at_what_is_called() -> None:
    def inner(event: Event, database: object) -> None:
        """Handle."""

    @functools.wraps(inner)
    def outer(event: Event) -> None:
        inner(event, None)

    check_handler(outer, batch=False)

    def fine(event: Event) -> None:
        """Handle."""

    @functools.wraps(fine)
    def wrong(event: Event, database: object) -> None:
        fine(event)

    with pytest.raises(ConfigError):
        check_handler(wrong, batch=False)


def unknown_name(self: object) -> None:
    raise NameError("as an annotation may from Python 3.14 on, where they are evaluated when somebody asks")


@pytest.mark.parametrize("signature", [5, "none", property(unknown_name)], ids=["int", "text", "NameError"])
def test_check_handler_when_the_signature_can_not_be_read_accepts_it(signature: object) -> None:
    class Odd:
        __signature__ = signature

        def __call__(self, event: Event) -> None:
            """Handle."""

    with pytest.raises((TypeError, ValueError, NameError)):  # Python's versions differ
        inspect.signature(Odd())
    check_handler(Odd(), batch=False)


def test_check_handler_when_it_is_not_callable_says_so() -> None:
    with pytest.raises(ConfigError, match="must be callable, not str"):
        check_handler("text", batch=False)
    running = coroutine(EVENT)
    with pytest.raises(ConfigError, match="not coroutine: give the function itself"):
        check_handler(running, batch=False)
    running.close()


def test_refuse_result_when_it_is_a_generator_names_it() -> None:
    error = refuse_result(generator(EVENT))
    assert isinstance(error, TypeError)
    assert "a generator, which nobody runs: generator" in str(error)
    error = refuse_result(agenerator(EVENT))
    assert isinstance(error, TypeError)
    assert "an async generator" in str(error)


@pytest.mark.parametrize("result", [0, False, "", [], iter([]), map(str, []), range(3), EVENT, generator])
def test_refuse_result_when_it_is_anything_else_accepts_it(result: object) -> None:
    assert refuse_result(result) is None
