"""The orders of a shop: their events, their commands, and what decides between them. Nothing here needs a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import eda

# --- events: what has happened ---------------------------------------------------------------------------------------


@eda.payload("order-placed")
@dataclass(frozen=True)
class OrderPlaced:
    customer: str


@eda.payload("item-added", schema="2")
@dataclass(frozen=True)
class ItemAdded:
    sku: str
    cents: int


@eda.payload("order-paid")
@dataclass(frozen=True)
class OrderPaid:
    cents: int


@eda.payload("order-shipped")
@dataclass(frozen=True)
class OrderShipped:
    parcel: str


@eda.payload("order-cancelled")
@dataclass(frozen=True)
class OrderCancelled:
    reason: str


OrderEvent: TypeAlias = OrderPlaced | ItemAdded | OrderPaid | OrderShipped | OrderCancelled


@eda.upcast("item-added", "1", "2")
def in_cents(item: dict[str, Any]) -> dict[str, Any]:
    """The first release stored whole euros."""
    return {"sku": item["sku"], "cents": item["euros"] * 100}


# --- commands: what somebody wants -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    customer: str


@dataclass(frozen=True)
class AddItem:
    sku: str
    cents: int


@dataclass(frozen=True)
class Pay:
    cents: int


@dataclass(frozen=True)
class Ship:
    parcel: str


@dataclass(frozen=True)
class Cancel:
    reason: str


Command: TypeAlias = Place | AddItem | Pay | Ship | Cancel


class Refused(Exception):
    """A command that the order's state does not allow."""


# --- the state, and the two functions --------------------------------------------------------------------------------


@dataclass
class Order:
    status: str = "new"
    customer: str = ""
    items: list[str] = field(default_factory=list)
    total_cents: int = 0


def evolve(order: Order, event: OrderEvent) -> Order:
    """Return the order after an event. It checks nothing: what has happened has happened."""
    match event:
        case OrderPlaced():
            order.status, order.customer = "open", event.customer
        case ItemAdded():
            order.items.append(event.sku)
            order.total_cents += event.cents
        case OrderPaid():
            order.status = "paid"
        case OrderShipped():
            order.status = "shipped"
        case OrderCancelled():
            order.status = "cancelled"
    return order


def decide(order: Order, command: Command) -> OrderEvent | None:
    """Return the event of a command, or None if there is nothing to do. Raises Refused."""
    match command:
        case Place():
            if order.status != "new":
                raise Refused(f"the order is {order.status} already")
            return OrderPlaced(command.customer)
        case AddItem():
            _require(order, "open")
            return ItemAdded(command.sku, command.cents)
        case Pay():
            _require(order, "open")
            if command.cents != order.total_cents:
                raise Refused(f"the order costs {order.total_cents} cents, not {command.cents}")
            return OrderPaid(command.cents)
        case Ship():
            _require(order, "paid")
            return OrderShipped(command.parcel)
        case Cancel():
            if order.status == "cancelled":
                return None
            _require(order, "open", "paid")
            return OrderCancelled(command.reason)


def _require(order: Order, *allowed: str) -> None:
    if order.status not in allowed:
        raise Refused(f"the order is {order.status}, not {' or '.join(allowed)}")


DECIDER: eda.Decider[Order, Command] = eda.Decider(Order, evolve, decide, state=Order)
