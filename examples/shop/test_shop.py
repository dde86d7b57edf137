"""Tests of the shop: of its decisions, and of the whole program over HTTP, which is ended under load."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import eda
from eda.testing import given
from order_list import OrderList
from sales import DECIDER, STREAM, AddItem, ItemAdded, Order, OrderPaid, OrderPlaced, Pay, Place, Refused

N_CLIENTS = 4
LOAD_S = 1.0
DEADLINE_S = 60

OPEN = [OrderPlaced("ada"), ItemAdded("book", 3000)]


def test_order_when_paid_costs_what_its_items_cost() -> None:
    given(DECIDER, OPEN).when(AddItem("pen", 100)).then([ItemAdded("pen", 100)])
    given(DECIDER, [*OPEN, ItemAdded("pen", 100)]).when(Pay()).then([OrderPaid("ada", 3100)])


def test_order_when_it_is_not_open_is_refused() -> None:
    given(DECIDER, OPEN).when(Place("bob")).then_raises(Refused)
    given(DECIDER, []).when(Pay()).then_raises(Refused)
    given(DECIDER, [*OPEN, OrderPaid("ada", 3000)]).when(AddItem("pen", 100)).then_raises(Refused)


# --- the program -----------------------------------------------------------------------------------------------------


class Client:
    """An HTTP client with one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: object = None, request_id: str = "") -> tuple[int, Any]:
        """Send a request, and return the code and the decoded body of its answer."""
        headers = {"Idempotency-Key": request_id} if request_id else {}
        text = None if body is None else json.dumps(body)
        self._connection.request(method, path, text, {"Content-Type": "application/json", **headers})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())


@contextmanager
def running(data: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the shop in a process of its own, and yield the process and its port."""
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).parent), "--data", str(data), "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            port = _port(process.stderr)
            threading.Thread(target=list, args=[process.stderr]).start()  # so that the pipe is never full
            yield process, port
        finally:
            process.kill()


def _port(log: Iterable[str]) -> int:
    told = ""
    for line in log:
        told += line
        if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    pytest.fail(told)


def end(process: subprocess.Popen[str]) -> None:
    """End the shop as a service manager does."""
    process.terminate()
    assert process.wait(DEADLINE_S) == (1 if sys.platform == "win32" else -signal.SIGTERM)


@dataclass
class Buyer:
    """A client that buys until the shop is gone, and remembers each answer. Then it asks again what had no answer."""

    name: str
    answered: dict[str, int] = field(default_factory=dict)  # the last version that was answered for each order
    unanswered: tuple[str, str, object, str] | None = None
    errors: list[str] = field(default_factory=list)

    def buy(self, port: int) -> None:
        """Place, fill and pay one order after the other, and read each one after its last write."""
        with suppress(OSError, http.client.HTTPException), Client(port) as client:  # until the shop is gone
            while True:
                order = f"{self.name}-{len(self.answered) + 1}"
                self._write(client, "PUT", order, "", {"customer": self.name})
                for item in ("book", "pen"):
                    self._write(client, "POST", order, "/items", {"sku": item, "cents": 100})
                after = self._write(client, "POST", order, "/payment", None)
                code, row = client.ask("GET", f"/orders/{order}?after={after}")
                if code != 200 or (row["status"], row["version"], row["total_cents"]) != ("paid", 4, 200):
                    self.errors.append(f"{order}: {code} {row}")

    def _write(self, client: Client, method: str, order: str, path: str, body: object) -> int:
        request_id = f"{order}.{self.answered.get(order, 0) + 1}"
        self.unanswered = method, f"/orders/{order}{path}", body, request_id
        code, answer = client.ask(*self.unanswered)
        self.unanswered = None
        if code != 201:
            self.errors.append(f"{order}: {code} {answer}")
            raise http.client.HTTPException
        self.answered[order] = answer["version"]
        after: int = answer["after"]
        return after

    def check(self, port: int) -> None:
        """Check that each answer still holds, and repeat the last command if it had no answer."""
        with Client(port) as client:
            self._check(client)

    def _check(self, client: Client) -> None:
        if self.unanswered is not None:
            for _ in range(2):
                code, answer = client.ask(*self.unanswered)
                assert code == 201, answer
                version = int(self.unanswered[3].rpartition(".")[2])
                assert answer["version"] == version
            order = answer["order"]
            self.answered[order] = version
            assert client.ask("GET", f"/orders/{order}?after={answer['after']}")[1]["version"] == version
        for order, version in self.answered.items():
            code, row = client.ask("GET", f"/orders/{order}")
            assert (code, row["version"]) == (200, version)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the URL of the database that the shop uses: SQLite by default, else a PostgreSQL server of this test."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'read.db'}"
        return
    if sys.platform == "win32":
        pytest.skip("PostgreSQL is started as on POSIX")
    from support.projections.postgres import Postgres  # of this repository's tests

    with Postgres() as server, server.database() as url:
        monkeypatch.setenv("SHOP_DATABASE", url)
        yield url


def test_shop_when_ended_under_load_keeps_all_that_it_answered(database: str, tmp_path: Path) -> None:
    buyers = [Buyer(f"buyer-{n}") for n in range(N_CLIENTS)]
    with running(tmp_path) as (process, port):
        threads = [threading.Thread(target=buyer.buy, args=[port]) for buyer in buyers]
        for thread in threads:
            thread.start()
        time.sleep(LOAD_S)
        end(process)
        for thread in threads:
            thread.join(DEADLINE_S)
    assert [error for buyer in buyers for error in buyer.errors] == []
    assert all(buyer.answered for buyer in buyers)

    with running(tmp_path) as (process, port):
        for buyer in buyers:
            buyer.check(port)
        with Client(port) as client:
            code, health = client.ask("GET", "/health")
        assert (code, health["status"]) == (200, "ok")
        end(process)
    asyncio.run(check_tables(tmp_path, database))


async def check_tables(data: Path, database: str) -> None:
    """Check that the tables say what the events say."""
    order_list = OrderList(database)
    paid: dict[str, list[int]] = {}
    async with eda.connect(f"embedded://{(data / 'events').as_posix()}") as conn, conn.store(STREAM, DECIDER) as store:
        async for name in store.aggregates():
            loaded = await store.load(name)
            order: Order = loaded.state
            assert order_list.find(name) == {
                "id": name,
                "customer": order.customer,
                "status": order.status,
                "n_items": order.n_items,
                "total_cents": order.total_cents,
                "version": loaded.version,
            }
            if order.status == "paid":
                paid.setdefault(order.customer, []).append(order.total_cents)
    rows = {row["name"]: (row["n_paid"], row["paid_cents"]) for row in order_list.best_customers(1000)}
    assert rows == {name: (len(sums), sum(sums)) for name, sums in paid.items()}


def test_shop_when_asked_for_what_it_can_not_do_says_so(tmp_path: Path) -> None:
    with running(tmp_path) as (process, port), Client(port) as client:
        assert client.ask("GET", "/orders/4711")[0] == 404
        assert client.ask("POST", "/orders/4711/payment")[0] == 409
        assert client.ask("PUT", "/orders/4711", {"customer": ""})[0] == 422
        assert client.ask("PUT", "/orders/4711", {"customer": "ada"}, "not an id")[0] == 422
        code, first = client.ask("PUT", "/orders/4711", {"customer": "ada"}, "req-1")
        code, again = client.ask("PUT", "/orders/4711", {"customer": "ada"}, "req-1")
        assert (code, first) == (201, again)
        assert client.ask("GET", f"/orders/4711?after={first['after']}")[1]["status"] == "open"
        code, answer = client.ask("GET", f"/orders/4711?after={first['after'] + 1}")
        assert code == 503
        assert "2 s" in answer["detail"]
        end(process)
