"""What `decide` returns on a real server: a cached aggregate takes and refuses the same results as one that is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import eda


def evolve(total: int, event: eda.Event) -> int:
    value: int = event.data.decode()
    return total + value


def added(n: int) -> eda.Event:
    return eda.Event(type="added", data=eda.JSON(n))


def several() -> Iterator[eda.Event]:
    yield from (added(1), added(2))


async def later() -> list[eda.Event]:
    return [added(1)]


def deciding(result: Callable[[], Any]) -> eda.Decider[int, str]:
    return eda.Decider(0, evolve, lambda _, command: added(5) if command == "add" else result())


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize(
    "result",
    [
        pytest.param(lambda: [None], id="none in a list"),
        pytest.param(lambda: [[added(1), added(2)]], id="list in a list"),
        pytest.param(lambda: [[added(1)]], id="list of one in a list"),
        pytest.param(lambda: [(added(1),)], id="tuple in a list"),
        pytest.param(lambda: [several()], id="generator in a list"),
        pytest.param(lambda: [eda.JSON(1)], id="data in a list"),
        pytest.param(lambda: [3], id="number in a list"),
        pytest.param(lambda: 3, id="number"),
    ],
)
async def test_execute_when_decide_returns_no_events_refuses_it(
    conn: eda.Conn, stream: str, result: Callable[[], Any], *, is_cached: bool
) -> None:
    store = conn.store(stream, deciding(result))
    if is_cached:
        await store.execute("a", "add")
    with pytest.raises(eda.ConfigError, match="decide returned") as refused:
        await store.execute("a", "other")
    assert refused.value.argument == "decide"
    assert (await store.load("a")).version == int(is_cached)


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize(
    ("result", "n"),
    [
        pytest.param(lambda: added(1), 1, id="event"),
        pytest.param(lambda: [added(1)], 1, id="list of one"),
        pytest.param(lambda: (added(1),), 1, id="tuple of one"),
        pytest.param(several, 2, id="generator"),
        pytest.param(later, 1, id="coroutine"),
        pytest.param(lambda: [added(1), added(2)], 2, id="list"),
        pytest.param(list, 0, id="empty list"),
        pytest.param(lambda: None, 0, id="none"),
    ],
)
async def test_execute_when_decide_returns_events_appends_them(
    conn: eda.Conn, stream: str, result: Callable[[], Any], n: int, *, is_cached: bool
) -> None:
    store = conn.store(stream, deciding(result))
    if is_cached:
        await store.execute("a", "add")
    appended = await store.execute("a", "other")
    loaded = await conn.store(stream, eda.Decider(0, evolve)).load("a")
    assert len(appended.receipts) == n
    assert (appended.version, appended.state) == (loaded.version, loaded.state)
    assert loaded.version == is_cached + n
