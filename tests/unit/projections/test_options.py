"""The arguments of `conn.projection`: which are refused, and which argument the error names."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eda
from eda import sql
from eda.projections.apply_function import apply_function
from eda.projections.options import DEFAULT_RETRY, ProjectionOptions, projection_options
from support.projections.memory_sink import MemorySink

GIVEN: dict[str, Any] = {
    "name": "orders",
    "version": 1,
    "types": None,
    "aggregate": None,
    "key": None,
    "lanes": 1,
    "batch": 500,
    "linger_s": 0.01,
    "retry": DEFAULT_RETRY,
    "dead_letter": "{stream}-dead",
    "timeout_s": 30.0,
}


def options(streams: Any = "orders", sink: Any = None, **given: Any) -> ProjectionOptions:
    return projection_options(streams, sink or MemorySink(), **(GIVEN | given))


def test_options_when_they_are_right_are_kept() -> None:
    found = options(["a", "b"], types=["x", "y"], key="aggregate", lanes=4, batch=10, version=3)
    assert (found.streams, found.types, found.key, found.lanes) == (("a", "b"), ("x", "y"), "aggregate", 4)
    assert found.subscription_name == "orders-v3"
    subscription = found.subscription(17)
    assert (subscription.start, subscription.serial, subscription.batch, subscription.name) == (17, True, 10, None)


@pytest.mark.parametrize(
    ("given", "argument", "message"),
    [
        ({"streams": []}, "streams", "must not be empty"),
        ({"streams": 5}, "streams", "must be the name of a stream or a list"),
        ({"streams": ["a", "a"]}, "streams", "twice"),
        ({"streams": "a b"}, "stream", "stream must be"),
        ({"name": "a b"}, "name", "name must be"),
        ({"name": ""}, "name", "name must be"),
        ({"name": "n" * 64}, "name", "at most 61 characters"),
        ({"version": 0}, "version", "version must be"),
        ({"version": True}, "version", "version must be"),
        ({"types": "a"}, "types", "list of types"),
        ({"aggregate": 5}, "aggregate", "must be a str"),
        ({"key": "type", "lanes": 2}, "key", "'aggregate' or a function"),
        ({"key": "aggregate"}, "key", "needs lanes"),
        ({"lanes": 2}, "lanes", "needs key"),
        ({"lanes": 0}, "lanes", "lanes must be"),
        ({"lanes": 1025, "key": "aggregate"}, "lanes", "lanes must be"),
        ({"batch": 0}, "batch", "batch must be"),
        ({"batch": "all"}, "batch", "batch must be"),
        ({"linger_s": -1}, "linger_s", "linger_s must be"),
        ({"retry": 3}, "retry", "retry must be a Retry"),
        ({"dead_letter": "{stream}"}, "dead_letter", "is the stream 'orders' itself"),
        ({"dead_letter": "a b"}, "dead_letter", "dead_letter must match"),
        ({"timeout_s": 0}, "timeout_s", "timeout_s must be"),
    ],
)
def test_options_when_one_is_wrong_are_refused(given: dict[str, Any], argument: str, message: str) -> None:
    with pytest.raises(eda.ConfigError, match=message) as refused:
        options(**given)
    assert refused.value.argument == argument


def test_lanes_when_the_database_has_one_writer_are_refused(tmp_path: Path) -> None:
    sink = sql.SQLite(tmp_path / "read.db")
    with pytest.raises(eda.ConfigError, match="can't be combined with SQLite") as refused:
        options(sink=sink, lanes=2, key="aggregate")
    assert refused.value.argument == "lanes"


# --- apply -----------------------------------------------------------------------------------------------------------


def plain(events: Any, tx: Any) -> None: ...


async def asynchronous(events: Any, tx: Any) -> None: ...


def generator(events: Any, tx: Any) -> Iterator[int]:
    yield 1


def one(events: Any) -> None: ...


def three(events: Any, tx: Any, more: Any) -> None: ...


def bound(events: Any, tx: Any, more: Any) -> None: ...


@pytest.mark.parametrize("apply", [plain, asynchronous, functools.partial(bound, more=1)])
def test_apply_when_the_sink_takes_both_kinds_is_taken(apply: Any) -> None:
    found = apply_function(apply, MemorySink(), is_single=False)
    assert (found.call, found.types) == (apply, None)


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (5, "must be a function"),
        (generator, "is a generator function"),
        (one, "must take a list of events and the transaction"),
        (three, "must take a list of events and the transaction"),
        (eda.Router, "the class eda.Router"),
        (eda.Router(), "has no handlers"),
    ],
)
def test_apply_when_it_can_not_be_called_is_refused(apply: Any, message: str) -> None:
    with pytest.raises(eda.ConfigError, match=message) as refused:
        apply_function(apply, MemorySink(), is_single=False)
    assert refused.value.argument == "apply"


def test_apply_when_it_is_async_for_sqlite_is_refused_and_the_error_names_another_sink(tmp_path: Path) -> None:
    with pytest.raises(eda.ConfigError, match="SQLAlchemy") as refused:
        apply_function(asynchronous, sql.SQLite(tmp_path / "read.db"), is_single=False)
    assert refused.value.argument == "apply"
