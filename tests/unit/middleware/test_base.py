"""eda.Middleware, and what `connect` refuses as middleware."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest

import eda


class Plain(eda.Middleware):
    pass


class Audit(eda.Middleware):
    async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> None:
        await call_next(event)


class PlainFunction(eda.Middleware):
    def publish(self, event: Any, call_next: Any) -> Any:  # type: ignore[override]
        return call_next(event)


class Generator(eda.Middleware):
    async def handle(self, event: Any, call_next: Any) -> Any:  # type: ignore[override]
        yield await call_next(event)


class TooFew(eda.Middleware):
    async def handle_batch(self, events: Any) -> None:  # type: ignore[override]
        pass


class TooMany(eda.Middleware):
    async def flush(self, publisher: Any, call_next: Any, more: Any) -> None:  # type: ignore[override]
        pass


class NoFunction(eda.Middleware):
    handle = 5  # type: ignore[assignment]


class Misspelt(eda.Middleware):
    async def handel(self, event: Any, call_next: Any) -> None:
        """Check the tenant."""


class Derived(Misspelt):
    pass


ONE = Plain()

WRONG: dict[str, tuple[Any, str]] = {
    "none": (None, "middleware must be a list of eda.Middleware objects, not NoneType"),
    "one": (ONE, "middleware must be a list of eda.Middleware objects, not Plain"),
    "text": ("audit", "middleware must be a list of eda.Middleware objects, not str"),
    "set": ({ONE}, "middleware must be a list of eda.Middleware objects, not set"),
    "generator": ((each for each in [ONE]), "middleware must be a list of eda.Middleware objects, not generator"),
    "class": ([ONE, Audit], "middleware[1] is the class Audit: give an object, Audit(...)"),
    "none-in-it": ([None], "middleware[0] must be an object of a subclass of eda.Middleware, not None"),
    "function-in-it": ([ONE, len], "middleware[1] must be an object of a subclass of eda.Middleware, not <built-in"),
    "twice": ([ONE, Audit(), ONE], "middleware[2] is the same object as middleware[0]: its hooks would run twice"),
    "plain-function": ([PlainFunction()], "hook PlainFunction.publish must be an async def, not a plain function"),
    "generator-function": ([Generator()], "hook Generator.handle must be an async def, not an async generator"),
    "too-few": ([TooFew()], "hook TooFew.handle_batch must take (events, call_next): too many positional arguments"),
    "too-many": ([TooMany()], "hook TooMany.flush must take (publisher, call_next): missing a required argument"),
    "misspelt": (
        [Misspelt()],
        "[0] has no hook: the hooks are opened, closed, publish, mark, flush, handle, handle_batch, observe",
    ),
    "misspelt-in-its-base": ([ONE, Derived()], "middleware[1] has no hook: "),
    "no-function": ([NoFunction()], "hook NoFunction.handle must be an async def, not int"),
}


@pytest.mark.parametrize("name", WRONG)
def test_connect_when_middleware_can_not_work_is_refused(name: str) -> None:
    middleware, text = WRONG[name]
    with pytest.raises(eda.ConfigError, match=re.escape(text)) as caught:
        eda.connect(middleware=middleware)
    assert caught.value.argument == "middleware"


def test_connect_when_middleware_is_a_list_or_tuple_takes_it() -> None:
    async def hook(event: eda.Event, call_next: eda.HandleNext) -> None:
        await call_next(event)

    patched = Plain()
    patched.handle = hook  # type: ignore[method-assign]
    wrapped = Plain()
    wrapped.handle = functools.partial(hook)  # type: ignore[method-assign]
    for middleware in ([ONE], (ONE, Plain()), [Audit(), Audit()], [patched, wrapped], [eda.Middleware()]):
        conn = eda.connect("nats://127.0.0.1:4222", middleware=middleware)
        assert isinstance(conn, eda.Conn)
        assert type(conn) is not eda.Conn
        assert repr(conn).startswith("<Conn 'eda-")


def test_connect_when_there_is_no_middleware_makes_the_ordinary_connection() -> None:
    for middleware in ([], ()):
        assert type(eda.connect("nats://127.0.0.1:4222", middleware=middleware)) is eda.Conn
    assert type(eda.connect("nats://127.0.0.1:4222")) is eda.Conn


async def test_hooks_when_not_overridden_pass_on_what_they_get() -> None:
    passed: list[Any] = []

    async def call_next(*given: Any) -> str:
        passed.append(given)
        return "id"

    middleware: Any = eda.Middleware()
    event = eda.Event()
    assert await middleware.publish(event, call_next) == "id"
    await middleware.handle(event, call_next)
    await middleware.handle_batch([event], call_next)
    await middleware.flush(None, call_next)
    await middleware.opened(None)
    await middleware.closed(None)
    assert passed == [(event,), (event,), ([event],), ()]
