"""The encryption of docs/guide.md: with forged events in a batch, and with replayed dead letters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import eda
from helpers import Admin, Connect, Logged, until

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guide.md"


def classes_of_the_guide() -> dict[str, Any]:
    """Return the names that the guide's program defines."""
    text = GUIDE.read_text(encoding="utf-8")
    (program,) = [
        each for each in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S) if "class Encrypted" in each
    ]
    names: dict[str, Any] = {}
    exec(program.replace("asyncio.run(main())", ""), names)
    return names


async def test_encryption_when_an_event_was_forged_gives_up_only_this_one(
    connect: Connect, stream: str, admin: Admin, logged: Logged
) -> None:
    logged.allow("can't be decrypted", "not encrypted")
    names = classes_of_the_guide()
    middleware = [names["Tenant"]("acme"), names["Encrypted"](bytes(range(32)))]
    conn, plain = await connect(middleware=middleware), await connect()
    for number in range(3):
        await conn.publish(stream, eda.Event(aggregate="a", data=eda.JSON(number)))
    async with plain.events(stream, backfill=True) as events:
        first = await anext(events)
    await plain.publish(stream, eda.Event(aggregate="moved", data=first.data, meta=first.meta))
    await plain.publish(stream, eda.Event(id="clear", data=eda.JSON(4), meta={"tenant": "acme"}))
    await conn.publish_batch(stream, [eda.Event(data=eda.JSON(number)) for number in (5, 6)])
    got: list[int] = []

    def handle(events: list[eda.Event]) -> None:
        got.extend(event.data.decode() for event in events)

    async with conn.subscribe(stream, handle, name="me", durable=True, backfill=True, batch=10) as sub:
        await until(lambda: sub.stats().handled == 5 and sub.stats().dead_lettered == 2)
    assert got == [0, 1, 2, 5, 6]
    assert sorted(await admin.ids(f"{stream}-dead")) != []


async def test_encryption_when_a_dead_letter_is_replayed_decrypts_it(
    connect: Connect, stream: str, logged: Logged
) -> None:
    logged.allow("handler rejected event")
    names = classes_of_the_guide()
    conn = await connect(middleware=[names["Tenant"]("acme"), names["Encrypted"](bytes(range(32)))])
    await conn.publish(stream, eda.Event(type="paid", aggregate="a", data=eda.JSON(7)))
    got: list[int] = []
    is_ready = False

    def handle(event: eda.Event) -> None:
        if not is_ready:
            raise eda.Reject("not ready")
        got.append(event.data.decode())

    async with conn.subscribe(stream, handle, name="me", durable=True, backfill=True) as sub:
        await until(lambda: sub.stats().dead_lettered == 1)
        is_ready = True
        assert await conn.replay_dead(stream, "me") == 1
        await until(lambda: sub.stats().handled == 1)
    assert got == [7]
