"""Members of the fault tests of the outbox: processes that relay until they are killed or told to end by SIGTERM.

A nursery (`faults.nursery`) forks them. Each writes its log to a file of its own, whose name is in its orders.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import traceback
from dataclasses import dataclass

import asyncpg  # noqa: F401
import psycopg  # noqa: F401
import sqlalchemy.ext.asyncio  # noqa: F401

import eda
import eda.projections.relay
import eda.sql
from support.faults.nursery import nurse
from support.projections.tables import sink_of


@dataclass
class Orders:
    """What a member is to do. `log`: the file of its log, whose last line is ENDED after an end in order."""

    url: str
    driver: str
    address: str
    log: str


async def relay(orders: Orders) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with asyncio.timeout(60):  # the server may be away
        while True:
            try:
                conn = await eda.connect(orders.url, client="relay")
                break
            except eda.EdaError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(0.05)
    sink = sink_of(orders.driver, orders.address)
    outbox = eda.sql.Outbox(sink)
    async with conn:
        while not stop.is_set():
            try:
                relay = await conn.relay(outbox)
                break
            except Exception as error:
                if not sink.is_outage(error):
                    raise
                await asyncio.sleep(0.05)
        ended, stopped = asyncio.create_task(relay.wait()), asyncio.create_task(stop.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        await relay.close()
        await ended
        stopped.cancel()


def run_member(given: dict[str, str]) -> None:
    orders = Orders(**given)
    with open(orders.log, "ab", buffering=0) as log:
        os.dup2(log.fileno(), 2)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    eda.projections.relay.STANDBY_S = 0.05
    try:
        asyncio.run(relay(orders))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    print("ENDED", file=sys.stderr, flush=True)
    os._exit(0)


if __name__ == "__main__":
    nurse(run_member)
