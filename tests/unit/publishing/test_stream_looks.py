"""eda.publishing.stream_looks: which streams are looked at, when, and who is told."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from eda.errors import ServerError, StreamNotFound
from eda.publishing import stream_looks
from eda.publishing.stream_looks import StreamLooks
from helpers import Logged, until


class Scene:
    """Looks without a server. `answers` has the answer or error for each stream."""

    def __init__(self) -> None:
        self.wire: Any = SimpleNamespace(
            loop=asyncio.get_running_loop(), is_up=True, closing=False, on_lost=[], on_closed=[], on_restored=[]
        )
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        self.seen: list[str] = []
        self.gone: list[str] = []
        self.looks = StreamLooks(
            self.wire, logging.getLogger("eda"), self.look, lambda info: self.seen.append(info.name), self.gone.append
        )

    async def look(self, stream: str) -> Any:
        self.asked.append(stream)
        answer = self.answers.get(stream, SimpleNamespace(name=stream))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def tell(self, what: str) -> None:
        for call in getattr(self.wire, what):
            call()


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(stream_looks, "LOOK_EVERY_S", 0.01)
    scene = Scene()
    yield scene
    scene.tell("on_closed")


async def test_looks_when_nothing_is_watched_asks_nobody(scene: Scene) -> None:
    scene.tell("on_restored")
    await asyncio.sleep(0.03)
    assert scene.asked == []


async def test_looks_when_a_stream_is_watched_repeat_until_it_is_not(scene: Scene) -> None:
    scene.looks.watch("orders")
    await until(lambda: len(scene.seen) > 2)
    scene.looks.unwatch("orders")
    n = len(scene.asked)
    await asyncio.sleep(0.03)
    assert len(scene.asked) <= n + 1
    scene.looks.watch("orders")
    await until(lambda: len(scene.asked) > n + 2)


async def test_looks_when_the_connection_is_lost_pause_until_it_is_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_looks, "LOOK_EVERY_S", 30.0)
    scene.looks.watch("orders")
    scene.wire.is_up = False
    scene.tell("on_lost")
    scene.looks.watch("payments")
    await asyncio.sleep(0.01)
    assert scene.asked == []
    scene.wire.is_up = True
    scene.tell("on_restored")
    await until(lambda: set(scene.seen) == {"orders", "payments"})


async def test_looks_when_a_stream_has_listeners_tell_them(scene: Scene) -> None:
    told: list[Any] = []
    scene.looks.listen("orders", told.append)
    await until(lambda: told)
    scene.looks.unwatch("orders")  # it has a listener
    n = len(told)
    await until(lambda: len(told) > n)
    info: Any = SimpleNamespace(name="orders")
    scene.looks.saw(info)
    assert told[-1] is info
    scene.looks.unlisten("orders", told.append)
    scene.looks.unlisten("orders", told.append)
    n = len(told)
    scene.looks.saw(info)
    assert len(told) == n


async def test_looks_when_a_look_fails_go_on(scene: Scene, logged: Logged) -> None:
    logged.expect("looking at stream broken failed")
    scene.answers = {
        "gone": StreamNotFound("gone"),
        "slow": ServerError(503, 0, "no responders"),
        "broken": RuntimeError("a defect"),
    }
    for stream in ("gone", "slow", "broken", "orders"):
        scene.looks.watch(stream)
    await until(lambda: scene.seen.count("orders") > 1)
    assert "gone" in scene.gone
    assert logged.find("could not look at stream slow")
