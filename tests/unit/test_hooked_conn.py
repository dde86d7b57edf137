"""What a connection costs without middleware: nothing, since it is made of the ordinary classes."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import eda
import eda.conn
import eda.subscribing.pipeline
from eda.hooked_conn import HookedConn

ORDINARY = ["conn.py", "publishing", "subscribing", "handling", "transport", "jetstream"]


def test_source_when_nothing_is_hooked_does_not_know_of_middleware() -> None:
    """Only `connect` and the hooked connection import middleware, so no publish and no handler call can test for it."""
    root = Path(eda.__file__).parent
    for part in ORDINARY:
        for path in [root / part] if part.endswith(".py") else sorted((root / part).rglob("*.py")):
            imported = [
                node.module or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
            ]
            assert not [name for name in imported if name.startswith(("eda.middleware", "eda.hooked"))], path


@pytest.mark.parametrize("name", ["publish", "publish_batch"])
def test_hooked_method_when_compared_has_the_signature_of_the_ordinary_one(name: str) -> None:
    assert inspect.signature(getattr(HookedConn, name)) == inspect.signature(getattr(eda.Conn, name))


@pytest.mark.parametrize("name", ["subscribe", "events", "publisher", "close", "__aenter__", "__await__", "__repr__"])
def test_other_method_when_looked_up_is_the_ordinary_one(name: str) -> None:
    assert getattr(HookedConn, name) is getattr(eda.Conn, name)


class Publishing(eda.Middleware):
    async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> None:
        await call_next(event)


class Handling(eda.Middleware):
    async def handle(self, event: eda.Event, call_next: eda.HandleNext) -> None:
        await call_next(event)


class Batches(eda.Middleware):
    async def handle_batch(self, events: list[eda.Event], call_next: eda.HandleBatchNext) -> None:
        await call_next(events)


async def handler_given(monkeypatch: pytest.MonkeyPatch, handler: Any, middleware: Any, **options: Any) -> Any:
    """Return the handler that the subscription of a connection gets."""
    given: list[Any] = []

    def subscription(services: Any, spec: Any, handler: Any, *_: Any) -> Any:
        given.append(handler)
        return type("Subscription", (), {})()

    monkeypatch.setattr(eda.conn, "Subscription", subscription)
    conn = eda.connect("nats://127.0.0.1:4222", middleware=middleware)
    services = SimpleNamespace(dead_letters=SimpleNamespace())
    monkeypatch.setattr(conn._lifetime, "require_open", lambda: services)
    conn.subscribe("s", handler, **options)
    return given[0]


async def test_subscribe_when_no_hook_is_for_handlers_takes_the_very_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def handle(event: Any) -> None: ...

    for middleware in ([], [Publishing()], [eda.Middleware()]):
        assert await handler_given(monkeypatch, handle, middleware) is handle
        assert await handler_given(monkeypatch, handle, middleware, batch=5) is handle
    assert await handler_given(monkeypatch, handle, [Handling()]) is not handle


BYPASSED: dict[str, tuple[eda.Middleware, dict[str, Any], str]] = {
    "batch": (Handling(), {"batch": 5}, "Handling has the hook handle but not handle_batch"),
    "single": (Batches(), {}, "Batches has the hook handle_batch but not handle"),
}


@pytest.mark.parametrize("kind", BYPASSED)
async def test_subscribe_when_it_would_bypass_a_hook_is_refused(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    middleware, options, text = BYPASSED[kind]
    with pytest.raises(eda.ConfigError, match=f"^middleware {text}, so a subscription .* bypass it: give") as caught:
        await handler_given(monkeypatch, print, [middleware], **options)
    assert caught.value.argument == "middleware"
