"""The same orders with the eventsourcing library, as its documentation writes aggregates and applications."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from support.projections.postgres import Postgres

__all__ = ["N_LOADS", "figures", "on_postgresql", "on_sqlite"]

N_THREADS = 5  # as many as its pool keeps connections
N_LOADS = 3  # of each order, so that eda's loads take long enough to be timed


class Order(Aggregate):
    """An order."""

    @event("Placed")
    def __init__(self, customer: str, currency: str) -> None:
        self.customer = customer
        self.n_items = 0
        self.total = 0
        self.paid = 0

    @event("Added")
    def add(self, article: str, quantity: int, price: int) -> None:
        self.n_items += quantity
        self.total += quantity * price

    @event("Paid")
    def pay(self, amount: int) -> None:
        self.paid += amount


class Shop(Application[UUID]):
    """The application: each method is a command or a query."""

    def save_order(self, n_events: int) -> UUID:
        """Save each event of a new order by itself."""
        order = Order(customer="4711", currency="EUR")
        self.save(order)
        for _ in range(n_events - 2):
            order.add(article="sku-1234", quantity=2, price=1999)
            self.save(order)
        order.pay(amount=31_984)
        self.save(order)
        return order.id

    def add(self, order_id: UUID) -> None:
        order: Order = self.repository.get(order_id)
        order.add(article="sku-1234", quantity=2, price=1999)
        self.save(order)

    def load(self, order_id: UUID) -> Order:
        order: Order = self.repository.get(order_id)
        return order


def on_sqlite(path: str) -> dict[str, str]:
    """Return the settings that store events in an SQLite file."""
    return {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": path}


def on_postgresql(server: Postgres) -> dict[str, str]:
    """Return the settings that store events in a PostgreSQL server."""
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": "postgres",
        "POSTGRES_HOST": "127.0.0.1",
        "POSTGRES_PORT": str(server.port),
        "POSTGRES_USER": server.user,
        "POSTGRES_PASSWORD": server.password,
    }


def figures(settings: dict[str, str], n_orders: int, n_events: int) -> dict[str, float]:
    """Save, load and change orders; return the microseconds of each.

    It is done in one thread and in several, and the faster way counts. `load warm` has all orders in the library's
    cache, which is off by default.
    """
    found: dict[str, list[float]] = {"save": [], "load": [], "change": [], "load warm": []}
    for n_threads in (1, N_THREADS):
        with Shop(settings) as shop:
            ids, took = _each(range(n_orders), lambda _: shop.save_order(n_events), n_threads)
            found["save"].append(took / n_orders / n_events)
            orders, took = _each(ids * N_LOADS, shop.load, n_threads)
            assert {(order.version, order.n_items) for order in orders} == {(n_events, 2 * (n_events - 2))}
            found["load"].append(took / n_orders / N_LOADS)
        with Shop({**settings, "AGGREGATE_CACHE_MAXSIZE": str(n_orders)}) as shop:
            _each(ids, shop.load, n_threads)
            found["load warm"].append(_each(ids, shop.load, n_threads)[1] / n_orders)
        with Shop(settings) as shop:
            found["change"].append(_each(ids, shop.add, n_threads)[1] / n_orders)
    return {what: min(took) * 1e6 for what, took in found.items()}


def _each(items: Iterable[Any], work: Callable[[Any], Any], n_threads: int) -> tuple[list[Any], float]:
    """Do the work for each item; return the results and the seconds."""
    started = time.perf_counter()
    if n_threads == 1:
        results = [work(item) for item in items]
    else:
        with ThreadPoolExecutor(n_threads) as pool:
            results = list(pool.map(work, items))
    return results, time.perf_counter() - started
