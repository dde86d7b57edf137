"""A publisher in a process of its own: journals what it sends and what is acknowledged, until it is killed or done.

Its orders (EDA_TEST_PUBLISHER, JSON): url, stream, journal, n, mode, and perhaps pack, the fields of an `eda.Pack`. It
sends the events e1 to en that the journal does not have as acknowledged, under the same ids, as a program does that
takes up its work again.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import eda
from support.faults.evidence import Journal


async def main(orders: dict[str, Any]) -> None:
    journal = Journal(Path(orders["journal"]))
    done = set(journal.events("acked"))
    member = str(os.getpid())
    pack = eda.Pack(**orders["pack"]) if "pack" in orders else None
    async with eda.connect(orders["url"]) as conn:
        await conn.streams.create(orders["stream"], eda.StreamOptions(packed=pack is not None))
        on_ack = lambda event_id, _: journal.note(member, "acked", event_id)  # noqa: E731
        async with conn.publisher(
            orders["stream"], pack=pack, mode=orders["mode"], max_pending=200, on_ack=on_ack
        ) as publisher:
            journal.note(member, "open", "-")
            for number in range(1, orders["n"] + 1):
                event = eda.Event(id=f"e{number:07}", type="t", aggregate=str(number % 7))
                if event.id not in done:
                    journal.note(member, "sent", event.id)
                    await publisher.send(event)
                    if number % 10 == 0:
                        await asyncio.sleep(0.002)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(json.loads(os.environ["EDA_TEST_PUBLISHER"]))))
