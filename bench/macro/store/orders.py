"""Orders: the aggregates of the event store's benchmarks."""

from __future__ import annotations

import msgspec

import eda

__all__ = ["Add", "Added", "Command", "Order", "Paid", "Place", "Placed", "decider", "ten_events"]


@eda.payload("order-placed")
class Placed(msgspec.Struct, frozen=True):
    """The first event."""

    customer: str = "4711"
    currency: str = "EUR"


@eda.payload("item-added")
class Added(msgspec.Struct, frozen=True):
    """An event between the first and the last one."""

    article: str = "sku-1234"
    quantity: int = 2
    price: int = 1999


@eda.payload("order-paid")
class Paid(msgspec.Struct, frozen=True):
    """The last event."""

    amount: int = 31_984


class Place(msgspec.Struct, frozen=True):
    """The command that begins an order."""


class Add(msgspec.Struct, frozen=True):
    """The command that adds an item."""

    price: int = 1999


Command = Place | Add


class Order(msgspec.Struct):
    """The state of an order."""

    customer: str = ""
    n_items: int = 0
    total: int = 0
    paid: int = 0


def evolve(order: Order, event: Placed | Added | Paid) -> Order:
    if isinstance(event, Added):
        order.n_items += event.quantity
        order.total += event.quantity * event.price
    elif isinstance(event, Placed):
        order.customer = event.customer
    else:
        order.paid += event.amount
    return order


def decide(order: Order, command: Command) -> Placed | Added:
    return Added(price=command.price) if isinstance(command, Add) else Placed()


def decider() -> eda.Decider[Order, Command]:
    """Return the decider of orders."""
    return eda.Decider(Order, evolve, decide, state=Order)


def ten_events() -> list[Placed | Added | Paid]:
    """Return the events of a whole order."""
    return [Placed(), *([Added()] * 8), Paid()]
