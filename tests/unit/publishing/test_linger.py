"""The timer that closes a publisher's open pack in time."""

from __future__ import annotations

import asyncio
from typing import Any

import eda
from eda.publishing.linger import Linger
from helpers import until
from support.publishing.publisher_core import Host, Rig


def lingering(linger_s: float, *, compress: Any = None, **options: Any) -> tuple[Rig, Linger]:
    host = Host()
    rig = Rig(host=host, packs={"max_events": 4, "max_pack_bytes": 4096, "compress": compress}, **options)
    linger = Linger(rig.core, rig.out, asyncio.get_running_loop(), linger_s)
    host.on_pack_opened = linger.start  # type: ignore[method-assign]
    rig.window()
    return rig, linger


async def test_pack_is_closed_after_linger_s_and_not_before() -> None:
    rig, _ = lingering(0.1)
    rig.accept(2)
    await asyncio.sleep(0.05)
    assert rig.core.n_open == 2
    await until(lambda: rig.core.n_open == 0, 0.2)
    assert not rig.core.linger_runs
    rig.accept(1)
    await until(lambda: rig.core.n_open == 0, 0.3)


async def test_pack_without_linger_is_closed_at_the_end_of_the_turn() -> None:
    rig, _ = lingering(0)
    rig.accept(2)
    assert rig.core.n_open == 2
    await asyncio.sleep(0)
    assert (rig.core.n_open, rig.core.n_packs) == (0, 1)


async def test_pack_that_was_opened_later_is_closed_later() -> None:
    rig, _ = lingering(0.1)
    rig.accept(3)
    await asyncio.sleep(0.06)
    rig.accept(2)  # the second one opens another pack
    assert (rig.core.n_open, rig.core.n_packs) == (1, 1)
    await asyncio.sleep(0.06)
    assert rig.core.n_open == 1
    await until(lambda: rig.core.n_open == 0, 0.2)


async def test_pack_stays_open_while_others_wait_to_be_written() -> None:
    rig, _ = lingering(0.01)
    rig.core.stop_writing()
    rig.accept(1)
    await until(lambda: rig.core.n_packs == 1)
    rig.accept(3)
    await asyncio.sleep(0.05)
    assert (rig.core.n_open, rig.core.n_packs) == (3, 1)
    rig.core.start_writing()
    await until(lambda: rig.core.n_open == 0)


async def test_pack_stays_open_while_the_connection_takes_no_more() -> None:
    rig, _ = lingering(0.01)
    rig.core.accept(eda.Event())
    rig.out.set_paused(True)
    await asyncio.sleep(0.05)
    assert rig.core.n_open == 1
    rig.out.set_paused(False)
    await until(lambda: rig.core.n_open == 0)


async def test_pack_does_not_stay_open_for_more_than_a_twentieth_of_the_time_out() -> None:
    rig, _ = lingering(0.01, give_up_s=2.0)
    rig.core.stop_writing()
    rig.accept(1)
    await until(lambda: rig.core.n_packs == 1)
    rig.accept(1)
    await asyncio.sleep(0.05)
    assert (rig.core.n_open, rig.core.n_packs) == (1, 1)
    await until(lambda: rig.core.n_packs == 2, 0.2)


async def test_pack_does_not_stay_open_for_more_than_a_quarter_of_a_second() -> None:
    rig, _ = lingering(0.01, give_up_s=1000.0)
    rig.core.accept(eda.Event())
    rig.out.set_paused(True)
    await until(lambda: rig.core.n_open == 0, 0.6)


async def test_pack_that_could_not_be_closed_is_closed_later() -> None:
    failing = [True]
    errors: list[Any] = []

    def flaky(data: Any) -> bytes:
        if failing:
            raise MemoryError
        return bytes(data)

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context["exception"]))
    rig, _ = lingering(0.01, compress=flaky)
    rig.accept(3)
    await until(lambda: errors)
    assert (rig.core.n_open, rig.core.linger_runs) == (3, True)
    rig.accept(1)  # the pack has all its events, and can't be closed now either
    assert rig.core.n_open == 4
    failing.clear()
    await until(lambda: rig.core.n_open == 0)
    assert (rig.core.n_packs, len(rig.written()), rig.core.linger_runs) == (1, 1, False)
    assert [type(error) for error in errors] == [MemoryError]


async def test_linger_when_it_is_stopped_closes_nothing_more() -> None:
    rig, linger = lingering(0.01)
    rig.accept(1)
    linger.stop()
    await asyncio.sleep(0.03)
    rig.accept(1)
    await asyncio.sleep(0.03)
    assert rig.core.n_open == 2
