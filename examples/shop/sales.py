"""The write side: the events and commands of a shop's orders, and what decides between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import eda

STREAM = "sales"

# --- events: what has happened ---------------------------------------------------------------------------------------


@eda.payload("order-placed")
@dataclass(frozen=True)
class OrderPlaced:
    customer: str


@eda.payload("item-added")
@dataclass(frozen=True)
class ItemAdded:
    sku: str
    cents: int


@eda.payload("order-paid")
@dataclass(frozen=True)
class OrderPaid:
    customer: str
    cents: int


SalesEvent: TypeAlias = OrderPlaced | ItemAdded | OrderPaid


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
    pass


Command: TypeAlias = Place | AddItem | Pay


class Refused(Exception):
    """A command that the order's state does not allow."""


# --- the state, and the two functions --------------------------------------------------------------------------------


@dataclass
class Order:
    status: str = "new"
    customer: str = ""
    n_items: int = 0
    total_cents: int = 0


def evolve(order: Order, event: SalesEvent) -> Order:
    """Return the order after an event."""
    match event:
        case OrderPlaced():
            order.status, order.customer = "open", event.customer
        case ItemAdded():
            order.n_items += 1
            order.total_cents += event.cents
        case OrderPaid():
            order.status = "paid"
    return order


def decide(order: Order, command: Command) -> SalesEvent:
    """Return the event of a command. Raises Refused."""
    match command:
        case Place():
            if order.status != "new":
                raise Refused(f"the order is {order.status} already")
            return OrderPlaced(command.customer)
        case AddItem():
            _require_open(order)
            return ItemAdded(command.sku, command.cents)
        case Pay():
            _require_open(order)
            return OrderPaid(order.customer, order.total_cents)


def _require_open(order: Order) -> None:
    if order.status != "open":
        raise Refused(f"the order is {order.status}, not open")


DECIDER: eda.Decider[Order, Command] = eda.Decider(Order, evolve, decide, state=Order)
