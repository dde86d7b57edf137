"""`eda.prometheus` without a connection that is open: what it refuses, and how its metrics are named."""

from __future__ import annotations

import re
import sys
from typing import Any

import prometheus_client
import pytest

import eda
from eda.telemetry.families import LAG, LAG_S, OF_CONNECTIONS, OF_PUBLISHERS, OF_SUBSCRIPTIONS

FAMILIES = [*OF_CONNECTIONS, *OF_PUBLISHERS, *OF_SUBSCRIPTIONS, LAG, LAG_S]


def make() -> eda.Conn:
    return eda.connect("nats://127.0.0.1:4222")


def test_collector_when_the_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(eda.ConfigError, match=r"install eda-fast\[prometheus\]"):
        eda.prometheus(make())


@pytest.mark.parametrize("wrong", [None, "nats://localhost", 7])
def test_collector_when_given_no_connection_is_refused(wrong: Any) -> None:
    with pytest.raises(eda.ConfigError, match=r"conns\[1\] must be an eda.Conn"):
        eda.prometheus(make(), wrong)


def test_collector_when_given_nothing_or_the_same_twice_is_refused() -> None:
    with pytest.raises(eda.ConfigError, match="at least one"):
        eda.prometheus()
    conn = make()
    with pytest.raises(eda.ConfigError, match="count twice"):
        eda.prometheus(conn, conn)


def test_collector_when_the_connection_is_not_open_yet_has_no_counts() -> None:
    families = {each.name: each for each in eda.prometheus(make()).collect()}
    assert len(families) == len(FAMILIES)
    assert [sample.value for sample in families["eda_connections_up"].samples] == [0]
    assert families["eda_publish_events"].samples == []


def test_collector_when_a_second_one_is_registered_is_refused_by_the_registry() -> None:
    registry = prometheus_client.CollectorRegistry()
    registry.register(eda.prometheus(make()))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(eda.prometheus(make()))


def test_descriptions_when_compared_with_what_is_collected_are_the_same() -> None:
    collector = eda.prometheus(make())
    described = [(each.name, each.type, each.documentation) for each in collector.describe()]
    assert sorted(described) == sorted((each.name, each.type, each.documentation) for each in collector.collect())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_name_of_a_metric_follows_the_conventions(family: Any) -> None:
    assert re.fullmatch("eda_[a-z_]+[a-z]", family.name)
    assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
    assert family.exposed.endswith("_total") == (family.kind == "counter")
    assert family.text.endswith(".")
    if family.kind == "histogram":
        assert family.name.endswith("_seconds")


def test_names_of_metrics_are_unique() -> None:
    assert len({each.name for each in FAMILIES}) == len(FAMILIES)
