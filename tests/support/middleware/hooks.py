"""Middleware for tests: layers that transform the data, hooks that are a function, and one that notes what it sees."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import eda

__all__ = ["Base64", "Body", "HandleHook", "Notes", "PublishHook", "Zlib"]

Body: TypeAlias = Callable[[Any, Any], Awaitable[object]]
"""A hook as a function of an event (or a batch) and `call_next`."""


class PublishHook(eda.Middleware):
    """Middleware whose hook `publish` is a function."""

    def __init__(self, body: Body) -> None:
        self._body = body

    async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> object:
        return await self._body(event, call_next)


class HandleHook(eda.Middleware):
    """Middleware whose hooks `handle` and `handle_batch` are a function."""

    def __init__(self, body: Body) -> None:
        self._body = body

    async def handle(self, event: eda.Event, call_next: eda.HandleNext) -> None:
        await self._body(event, call_next)

    async def handle_batch(self, events: list[eda.Event], call_next: eda.HandleBatchNext) -> None:
        await self._body(events, call_next)


class Layer(eda.Middleware):
    """Encodes the data of published events, and decodes that of received ones."""

    name = ""

    def encode(self, data: bytes) -> bytes:
        raise NotImplementedError

    def decode(self, data: bytes) -> bytes:
        raise NotImplementedError

    async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> object:
        data = eda.Bytes(self.encode(event.data.encode()))
        return await call_next(event.replace(data=data, meta={**event.meta, self.name: event.data.type}))

    async def handle(self, event: eda.Event, call_next: eda.HandleNext) -> None:
        await call_next(self.unwrapped(event))

    async def handle_batch(self, events: list[eda.Event], call_next: eda.HandleBatchNext) -> None:
        await call_next([self.unwrapped(event) for event in events])

    async def load(self, event: eda.Event) -> eda.Event:
        return self.unwrapped(event)

    def unwrapped(self, event: eda.Event) -> eda.Event:
        meta = event.meta
        if self.name not in meta:
            return event
        return event.replace(
            data=eda.Data.from_encoded(meta.pop(self.name), self.decode(event.data.encode())), meta=meta
        )


class Zlib(Layer):
    name = "zlib"

    def encode(self, data: bytes) -> bytes:
        return zlib.compress(data)

    def decode(self, data: bytes) -> bytes:
        return zlib.decompress(data)


class Base64(Layer):
    name = "base64"

    def encode(self, data: bytes) -> bytes:
        return base64.b64encode(data)

    def decode(self, data: bytes) -> bytes:
        return base64.b64decode(data)


class Notes(eda.Middleware):
    """Notes what its hook `publish` sees, and adds its name to the meta entry `way`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[eda.Event] = []
        self.publishers: list[eda.Publisher | None] = []
        self.results: list[Any] = []
        self.errors: list[BaseException] = []

    async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> None:
        self.events.append(event)
        self.publishers.append(call_next.publisher)
        way = f"{event.meta.get('way', '')} {self.name}".strip()
        try:
            self.results.append(await call_next(event.replace(meta={**event.meta, "way": way})))
        except BaseException as error:
            self.errors.append(error)
            raise
