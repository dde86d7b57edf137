"""A process that waits in a view: for each sequence on its stdin, it prints when `wait_for` has returned.

Its arguments: the server's URL, the SQLite file, the projection's name, the stream. Times are nanoseconds of
CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import sys
import time

import eda
from macro.projections.sales import last_receipt


async def main(url: str, path: str, name: str, stream: str) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with eda.connect(url) as conn, conn.view(name, into=eda.sql.SQLite(path)) as view:
        print("open", flush=True)
        async for line in reader:
            await view.wait_for(last_receipt(stream, int(line)), timeout_s=10)
            print(time.perf_counter_ns(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
