"""A process manager: when an order is paid, it is shipped."""

from __future__ import annotations

import eda
from orders import Command, Order, OrderPaid, Refused, Ship


def shipping(store: eda.EventStore[Order, Command]) -> eda.Router:
    """Return the handler of a subscription. It may get an event twice, but it ships each order once.

    The command's id is the event's id. If the handler is called again for the same event, the store finds the command
    among the order's events, and does not run `decide` again.
    """
    router = eda.Router()

    @router.on(OrderPaid)
    async def ship(paid: OrderPaid, event: eda.Event) -> None:
        try:
            await store.execute(event.aggregate, Ship(parcel=f"P-{event.aggregate}"), command_id=event.id)
        except Refused as error:
            raise eda.Reject(str(error)) from error

    return router
