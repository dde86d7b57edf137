"""A member of a cursor in a process of its own that a test may freeze.

    python -m support.cursors.process <url> <stream>

Prints "active" when it is the holder, and begins something every millisecond while its lease allows that. When it has
lost the cursor, it prints as JSON which calls the cursor made and when it began things, in nanoseconds of the monotonic
clock.
"""

from __future__ import annotations

import asyncio
import json
import sys

import eda
from eda._clock import read_monotonic_ns
from eda.cursors.position import Position
from support.cursors.member import Member


async def main(url: str, stream: str) -> None:
    async with eda.connect(url, client="process") as conn:
        member = await Member(conn, stream).open()
        await member.active()
        print("active", flush=True)
        begun: list[int] = []
        while "lost" not in member.story:
            now = read_monotonic_ns()
            if now < member.cursor.lease_until_ns:
                begun.append(now)
                member.cursor.advance(Position(len(begun)))
            await asyncio.sleep(0.001)
        print(json.dumps({"story": member.story, "begun": begun}), flush=True)
        await member.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
