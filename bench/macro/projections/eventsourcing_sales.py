"""The same projection with the eventsourcing library, as its documentation writes projections and their views."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import InfrastructureFactory, Tracking, TrackingRecorder
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.sqlite import SQLiteTrackingRecorder
from eventsourcing.utils import Environment, get_topic
from psycopg.sql import SQL, Composed

from macro.projections.sales import CREATE

__all__ = ["fill", "projected_us", "projected_us_by_pulling"]

N_PER_CUSTOMER = 1000
N_PER_PULL = 500


class Customer(Aggregate):
    """A customer, whose purchases are projected."""

    @event("Opened")
    def __init__(self, name: str) -> None:
        self.name = name
        self.total = 0

    @event("Sold")
    def sell(self, article: str, quantity: int, total: int) -> None:
        self.total += total


class Shop(Application[UUID]):
    """The application whose events are projected."""

    log_section_size = N_PER_PULL


class View(TrackingRecorder):
    """The table, as the projection sees it."""

    def insert(self, row: tuple[object, ...], tracking: Tracking) -> None:
        """Insert a row and the position, in one transaction."""
        raise NotImplementedError


class SQLiteView(SQLiteTrackingRecorder, View):
    """The table in an SQLite file."""

    def construct_create_table_statements(self) -> list[str]:
        return [*super().construct_create_table_statements(), CREATE]

    def insert(self, row: tuple[object, ...], tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute("INSERT INTO sales (sequence, id, customer, total) VALUES (?, ?, ?, ?)", row)


class PostgresView(PostgresTrackingRecorder, View):
    """The table in a PostgreSQL database."""

    def __init__(self, datastore: Any, **kwargs: Any) -> None:
        super().__init__(datastore, **kwargs)
        self.sql_create_statements.append(Composed([SQL(CREATE)]))

    def insert(self, row: tuple[object, ...], tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(
                "INSERT INTO sales (sequence, id, customer, total) VALUES (%s, %s, %s, %s)", row, prepare=True
            )


class Sales(Projection[View]):
    """Inserts a row for each purchase."""

    name = "sales"
    topics = (get_topic(Customer.Sold),)  # type: ignore[attr-defined]  # the decorator makes the class

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        row = (
            tracking.notification_id,
            f"{domain_event.originator_id}-{domain_event.originator_version}",
            str(domain_event.originator_id),
            domain_event.total,
        )
        self.view.insert(row, tracking)


def fill(settings: Mapping[str, str], n: int) -> int:
    """Save `n` purchases; return the number of the last event."""
    with Shop(settings) as shop:
        last = 0
        for begin in range(0, n, N_PER_CUSTOMER):
            customer = Customer(name="4711")
            for number in range(begin, min(begin + N_PER_CUSTOMER, n)):
                customer.sell(article="sku-1234", quantity=2, total=number)
            last = shop.save(customer)[-1].notification.id
        return last


def projected_us(settings: Mapping[str, str], n: int, last: int) -> float:
    """Project with the library's runner, which needs a database that notifies; return the microseconds of each event.

    The view must be empty.
    """
    started = time.perf_counter()
    with ProjectionRunner(
        application_class=Shop, projection_class=Sales, view_class=PostgresView, env=dict(settings)
    ) as runner:
        runner.wait(last, timeout=300)
        return (time.perf_counter() - started) / n * 1e6


def projected_us_by_pulling(settings: Mapping[str, str], n: int) -> float:
    """Do what the runner does for SQLite, which offers no subscriptions; return the microseconds of each event."""
    environment = Environment(Sales.name, {**os.environ, **settings})
    started = time.perf_counter()
    with Shop(dict(settings)) as shop:
        view = InfrastructureFactory[Any].construct(environment).tracking_recorder(SQLiteView)
        projection = Sales(view)
        start = view.max_tracking_id(shop.name)
        while True:
            notifications = shop.notification_log.select(
                start, limit=N_PER_PULL, topics=Sales.topics, inclusive_of_start=False
            )
            for notification in notifications:
                tracking = Tracking(shop.name, notification.id)
                projection.process_event(shop.mapper.to_domain_event(notification), tracking)
            if not notifications:
                return (time.perf_counter() - started) / n * 1e6
            start = notifications[-1].id
