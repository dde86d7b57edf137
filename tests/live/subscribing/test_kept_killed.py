"""The move of a position whose program is killed: the position is the old or the new one, and no event is lost."""

from __future__ import annotations

import pytest

import eda
from helpers import Admin, until
from support.cursors.member import Keys
from support.subscribing.kept import BOTH, DELETED, ORDERED, N, die_at, fill, handle_all, member, n_steps, places


@pytest.fixture
async def filled(conn: eda.Conn, stream: str) -> str:
    """A stream with ten events."""
    await fill(conn, stream)
    return stream


@BOTH
async def test_move_when_killed_at_any_step_leaves_the_old_or_the_new_position(
    conn: eda.Conn, filled: str, options: dict[str, object], admin: Admin, server: eda.EmbeddedServer
) -> None:
    await handle_all(conn, filled, **options)
    steps = await n_steps(server, filled, 4)
    assert steps == (2 if options else 12)
    assert await handle_all(conn, filled, 7, **options) == places(4)
    was_new = []
    for step in range(1, steps + 1):
        await die_at(server, filled, 8, step)
        (info,) = await conn.subscriptions(filled)
        assert info.position in (7, 10)
        async with member(conn, filled, **options) as (_, got):
            await until(lambda: len(got) == N - info.position)  # noqa: B023
            await conn.publish(filled)
            await until(lambda: got[-1:] == [str(N + 1)])
            assert got == places(info.position + 1, N + 1)
        was_new.append(info.position == 7)
        await conn.delete_subscription(filled, "n")
        await conn.streams.delete(filled)
        await fill(conn, filled)
        await handle_all(conn, filled, **options)
    assert was_new == sorted(was_new), "the position went back and forth"
    assert not was_new[0]
    assert was_new[-1]


async def test_move_when_an_earlier_one_was_killed_can_be_made_again(
    conn: eda.Conn, filled: str, admin: Admin, server: eda.EmbeddedServer
) -> None:
    await handle_all(conn, filled)
    await die_at(server, filled, 4, DELETED)
    (info,) = await conn.subscriptions(filled)
    assert (info.kind, info.position, info.lag, info.in_flight) == ("shared", 3, 7, 0)
    moved = await conn.move_subscription(filled, "n", to=6)
    assert (moved.kind, moved.before, moved.after) == ("shared", "3", "5")
    with pytest.raises(eda.ConfigError, match="it is a shared one, whose position was moved"):
        await handle_all(conn, filled, **ORDERED)
    assert await handle_all(conn, filled, 5) == places(6)
    assert await Keys(admin, filled).get() is None


async def test_reset_when_a_moved_position_is_left_forgets_it(
    conn: eda.Conn, filled: str, admin: Admin, server: eda.EmbeddedServer
) -> None:
    await handle_all(conn, filled)
    await die_at(server, filled, 9, DELETED)
    assert await handle_all(conn, filled, reset=True) == places(1)
    assert await Keys(admin, filled).get() is None


async def test_moved_position_when_its_stream_was_made_again_is_dropped(
    conn: eda.Conn, filled: str, admin: Admin, server: eda.EmbeddedServer
) -> None:
    await handle_all(conn, filled)
    await die_at(server, filled, 5, DELETED)
    await conn.streams.delete(filled)
    await conn.publish(filled)
    assert await handle_all(conn, filled, 1) == ["1"]
    assert await Keys(admin, filled).get() is None
