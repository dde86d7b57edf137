"""Positions that are moved or forgotten while something else happens to the subscription."""

from __future__ import annotations

import contextlib

import pytest

import eda
from eda.cursors.entry import CursorEntry
from helpers import Connect, until
from support.subscribing.kept import ORDERED, N, fill, handle_all, member


@pytest.fixture
async def filled(conn: eda.Conn, stream: str) -> str:
    """A stream with ten events."""
    await fill(conn, stream)
    return stream


async def test_delete_when_a_member_opens_meanwhile_is_refused(
    conn: eda.Conn, connect: Connect, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await handle_all(conn, filled, **ORDERED)
    operator = await connect()
    remove = CursorEntry.remove
    async with contextlib.AsyncExitStack() as opened:

        async def remove_late(entry: CursorEntry, revision: int) -> bool:
            sub, _ = await opened.enter_async_context(member(conn, filled, **ORDERED))
            await until(lambda: sub.is_active)
            return await remove(entry, revision)

        monkeypatch.setattr(CursorEntry, "remove", remove_late)
        with pytest.raises(eda.ConfigError, match="can't be deleted while"):
            await operator.delete_subscription(filled, "n")
        monkeypatch.undo()
        (info,) = await operator.subscriptions(filled)
        assert info.position == N
        await conn.publish(filled)


async def test_delete_when_the_position_is_moved_meanwhile_forgets_it(
    conn: eda.Conn, connect: Connect, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await handle_all(conn, filled, **ORDERED)
    operator = await connect()
    remove = CursorEntry.remove

    async def remove_late(entry: CursorEntry, revision: int) -> bool:
        monkeypatch.undo()
        await conn.move_subscription(filled, "n", to=3)
        return await remove(entry, revision)

    monkeypatch.setattr(CursorEntry, "remove", remove_late)
    assert await operator.delete_subscription(filled, "n")
    assert await conn.subscriptions(filled) == []
