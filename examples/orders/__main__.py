"""The story of some orders, on an event store: `python examples/orders`."""

from __future__ import annotations

import os

import eda
from orders import DECIDER, AddItem, Cancel, Command, Order, OrderCancelled, Pay, Place, Refused
from shipping import shipping

SNAPSHOT_EVERY = 20


def open_store(conn: eda.Conn) -> eda.EventStore[Order, Command]:
    """Return a store of orders. One such object serves a whole program."""
    return conn.store("orders", DECIDER, snapshot_every=SNAPSHOT_EVERY)


async def main() -> None:
    """Tell the story, on a private server or on the server that EDA_URL names."""
    async with (
        eda.connect(os.environ.get("EDA_URL", "embedded:"), client="shop") as conn,
        open_store(conn) as orders,
    ):
        await buy(orders)
        await ship(conn, orders)
        await quarrel(conn, orders)
        await repeat(orders)
        await read_old(orders)
        await grow(conn)
        await forget(orders)


async def buy(orders: eda.EventStore[Order, Command]) -> None:
    """Execute commands, one of which is refused."""
    await orders.execute("4711", Place("ada"))
    await orders.execute("4711", AddItem("book", 3000))
    try:
        await orders.execute("4711", Pay(2999))
    except Refused as error:
        print("refused:", error)
    result = await orders.execute("4711", Pay(3000))
    print("4711 is", result.state.status, "at version", result.version)


async def ship(conn: eda.Conn, orders: eda.EventStore[Order, Command]) -> None:
    """Let the process manager ship what was paid."""
    async with (
        conn.subscribe("orders", shipping(orders), name="shipping", durable=True, backfill=True),
        conn.events("orders", types=["order-shipped"], backfill=True) as shipped,
    ):
        event = await anext(shipped)
    paid = (await orders.history("4711"))[2]
    print(event.aggregate, "is shipped at version", event.version, "because it was paid:", event.cause == paid.id)


async def quarrel(conn: eda.Conn, orders: eda.EventStore[Order, Command]) -> None:
    """Let two clerks change the same order."""
    await orders.execute("4712", Place("bob"))
    seen = await orders.load("4712")
    await open_store(conn).execute("4712", AddItem("lamp", 1500))  # another clerk's program
    try:
        await orders.append("4712", [eda.Event(data=OrderCancelled("too dear"))], expected=seen)
    except eda.VersionConflict as conflict:
        types = [event.type for event in conflict.events]
        print("conflict: expected", conflict.expected, "but it is", conflict.actual, "because of", types)
    await open_store(conn).execute("4712", AddItem("bulb", 500))
    # This store has version 2 in its cache, where the order costs 1500. `execute` does not refuse because of that: it
    # reads what has come since, and decides again.
    result = await orders.execute("4712", Pay(2000))
    print("4712 is paid at version", result.version)


async def repeat(orders: eda.EventStore[Order, Command]) -> None:
    """Send a command twice, as a client does that got no answer."""
    first = await orders.execute("4713", Place("cleo"), command_id="req-81")
    again = await orders.execute("4713", Place("cleo"), command_id="req-81")
    print("req-81 was applied once:", first.receipt is not None and first.version == again.version)
    nothing = await orders.execute("4713", Cancel("changed her mind"))
    nothing = await orders.execute("4713", Cancel("changed her mind"))
    print("a command without an event leaves version", nothing.version, "and", len(nothing.receipts), "receipts")


async def read_old(orders: eda.EventStore[Order, Command]) -> None:
    """Read an event that an older release has stored."""
    await orders.execute("4714", Place("dan"))
    old = eda.Event(type="item-added", schema="1", data=eda.JSON({"sku": "desk", "euros": 90}))
    await orders.append("4714", [old], expected=1)
    order = await orders.load("4714")
    print("4714 costs", order.state.total_cents, "cents")


async def grow(conn: eda.Conn) -> None:
    """Load an order of many events from its snapshot, as a new program does."""
    async with open_store(conn) as writer:  # leaving it waits for the snapshots that are being written
        await writer.execute("4715", Place("eve"))
        for _ in range(2 * SNAPSHOT_EVERY):
            await writer.execute("4715", AddItem("pen", 100))
    order = await open_store(conn).load("4715")
    print("4715 has", order.version, "events; the load read a snapshot:", len(order.events) < order.version)


async def forget(orders: eda.EventStore[Order, Command]) -> None:
    """Remove an order for good."""
    await orders.forget("4711")
    try:
        await orders.load("4711")
    except eda.AggregateForgotten as error:
        print(error)
    print("left:", sorted([name async for name in orders.aggregates()]))


if __name__ == "__main__":
    eda.run(main())
