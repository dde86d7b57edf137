"""The encryption of docs/guide.md, in a batch: an event that can't be decrypted becomes a dead letter, alone."""

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
        await conn.publish(stream, eda.Event(data=eda.JSON(number)))
    async with plain.events(stream, backfill=True) as events:
        first = await anext(events)
    await plain.publish(stream, eda.Event(id="moved", data=first.data, meta=first.meta))
    await plain.publish(stream, eda.Event(id="clear", data=eda.JSON(4), meta={"tenant": "acme"}))
    await conn.publish_batch(stream, [eda.Event(data=eda.JSON(number)) for number in (5, 6)])
    got: list[int] = []

    def handle(events: list[eda.Event]) -> None:
        got.extend(event.data.decode() for event in events)

    async with conn.subscribe(stream, handle, name="me", durable=True, backfill=True, batch=10) as sub:
        await until(lambda: sub.stats().handled == 5 and sub.stats().dead_lettered == 2)
    assert got == [0, 1, 2, 5, 6]
    assert sorted(await admin.ids(f"{stream}-dead")) != []
