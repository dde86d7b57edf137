"""eda.connection_log: a line when the connection is open, lost and back, and at most one warning in each period."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

import eda.connection_log
from eda.connection_log import ConnectionLog
from helpers import Logged, until

PERIOD_S = 0.1
INFO = {"server_name": "n1", "version": "2.14.0", "cluster": "c1"}


@pytest.fixture(autouse=True)
def short_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eda.connection_log, "EVERY_S", PERIOD_S)


def make(info: dict[str, Any] = INFO) -> tuple[ConnectionLog, SimpleNamespace]:
    wire = SimpleNamespace(info=info, address="nats://h:1", n_failed_attempts=0, last_failure="")
    return ConnectionLog(logging.getLogger("eda"), "nats://a, nats://b", wire, lambda: 7), wire  # type: ignore[arg-type]


def texts(logged: Logged, level: int = logging.INFO) -> list[str]:
    return [each.getMessage() for each in logged.records if each.levelno >= level]


async def test_log_when_connected_names_the_server(logged: Logged) -> None:
    log, _ = make()
    assert texts(logged) == ["connected to nats://h:1: server n1, nats-server 2.14.0"]
    fields = vars(logged.records[0])
    assert (fields["eda_address"], fields["eda_server"]) == ("nats://h:1", "n1")
    assert fields["eda_server_version"] == "2.14.0"
    assert log.server.cluster == "c1"
    log.close()


@pytest.mark.parametrize("name", [7, None, "", "x\ny"])
async def test_log_when_the_server_names_itself_strangely_stays_one_line(logged: Logged, name: object) -> None:
    log, _ = make({"server_name": name, "version": ["2"]})
    assert log.server.name in (None, "x\\ny")
    assert log.server.version is None
    assert "\n" not in texts(logged)[0]
    log.close()


async def test_log_when_lost_for_long_warns_once_in_each_period_until_it_is_back(logged: Logged) -> None:
    log, wire = make()
    logged.records.clear()
    wire.n_failed_attempts = 3
    log.lost()
    log.lost()  # told twice
    assert texts(logged) == ["disconnected from nats://a, nats://b; reconnecting"]
    wire.n_failed_attempts, wire.last_failure = 5, "no route"
    await until(lambda: len(texts(logged)) == 3)
    assert texts(logged)[1] == (
        "still disconnected from nats://a, nats://b after 0 s: 2 attempts to reconnect failed, the last one with: no "
        "route; 7 events wait to be published"
    )
    assert log.n_failed == 2
    wire.info = {**INFO, "server_name": "n2"}
    log.restored()
    assert texts(logged)[-1].endswith("s: server n2, nats-server 2.14.0")
    assert texts(logged)[-1].startswith("reconnected to nats://h:1 after 0.")
    await asyncio.sleep(2.5 * PERIOD_S)
    assert len(texts(logged)) == 4
    assert (log.n_reconnects, log.lost_s) == (1, None)


async def test_log_when_lost_many_times_in_a_period_tells_it_once(logged: Logged) -> None:
    log, _ = make()
    logged.records.clear()
    for _ in range(20):
        log.lost()
        log.restored()
    assert [text.partition(" ")[0] for text in texts(logged)] == ["disconnected", "reconnected"]
    await until(lambda: len(texts(logged)) == 3)
    assert texts(logged)[2].startswith("the connection to nats://a, nats://b was lost and restored 19 more times")
    await asyncio.sleep(2.5 * PERIOD_S)
    assert len(texts(logged)) == 3
    assert log.n_reconnects == 20


async def test_log_when_lost_again_and_still_lost_says_so_at_the_end_of_the_period(logged: Logged) -> None:
    log, _ = make()
    log.lost()
    log.restored()
    log.lost()
    logged.records.clear()
    await until(lambda: texts(logged))
    assert texts(logged)[0].startswith("still disconnected from")
    log.restored()
    assert texts(logged)[-1].startswith("reconnected")
    log.close()


async def test_log_when_closed_while_lost_says_nothing_more(logged: Logged) -> None:
    log, _ = make()
    log.lost()
    log.close()
    n = len(texts(logged))
    await asyncio.sleep(2 * PERIOD_S)
    assert len(texts(logged)) == n
