"""eda.options: defaults as documented, everything that can't work refused where it is written."""

from __future__ import annotations

import dataclasses
import math
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from eda.errors import ConfigError
from eda.options import Retry, StreamOptions, SubscriptionOptions, merge_options

BAD_NUMBERS: list[Any] = [True, "1", None, math.nan, math.inf, -math.inf, -1, 10**400, [1]]


def refused(cls: Any, option: str, **options: Any) -> ConfigError:
    """Give the ConfigError that building raises; it must name the option and its value."""
    with pytest.raises(ConfigError) as caught:
        cls(**options)
    assert caught.value.argument == option
    assert option in str(caught.value)
    assert repr(options[option]) in str(caught.value)
    return caught.value


def test_subscription_options_when_default_are_as_documented() -> None:
    assert dataclasses.asdict(SubscriptionOptions()) == {
        "name": None,
        "backfill": False,
        "durable": False,
        "reset": False,
        "serial": False,
        "exclusive": False,
        "on_filter_change": "refuse",
        "key": None,
        "concurrency": 1,
        "timeout_s": 30.0,
        "start": None,
        "types": None,
        "aggregate": None,
        "batch": None,
        "linger_s": 0.01,
        "lease_s": 30.0,
        "prefetch": 4096,
        "prefetch_bytes": 33_554_432,
        "circuit": 10,
        "retry": {"initial_s": 0.1, "factor": 2.0, "max_s": 30.0, "max_attempts": None},
        "dead_letter": "{stream}-dead",
    }


def test_stream_options_when_default_are_as_documented() -> None:
    assert dataclasses.asdict(StreamOptions()) == {
        "replicas": 1,
        "storage": "file",
        "max_age_s": None,
        "max_bytes": None,
        "max_events": None,
        "dedup_window_s": 120.0,
        "compression": None,
        "discard": "old",
        "atomic": None,
        "fast_ingest": None,
        "store": False,
        "packed": False,
    }


@pytest.mark.parametrize("options", [Retry(), StreamOptions(), SubscriptionOptions(types=["a"])])
def test_options_when_made_are_frozen_hashable_and_pickle(options: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options, dataclasses.fields(options)[0].name, 1)
    assert pickle.loads(pickle.dumps(options)) == options
    assert hash(options) == hash(dataclasses.replace(options))


@pytest.mark.parametrize(
    "options",
    [
        {"name": "N" * 64, "durable": True, "serial": True},
        {"serial": "strict"},
        {"name": "n", "durable": True, "reset": True},
        {"name": "n", "exclusive": True, "durable": True},
        {"key": "aggregate", "concurrency": 65_536, "prefetch": 65_536},
        {"key": str, "concurrency": 64},
        {"exclusive": True, "durable": True, "batch": 100},
        {"start": 1},
        {"start": datetime(2024, 1, 1, tzinfo=UTC)},
        {"start": datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2)))},
        {"types": ["a", ""], "aggregate": ""},
        {"batch": 1, "linger_s": 0},
        {"name": "n", "lease_s": 1},
        {"durable": True, "lease_s": 3600.0},
        {"timeout_s": 1},
        {"dead_letter": None},
        {"dead_letter": "trouble"},
        {"dead_letter": "dead-{stream}"},
    ],
)
def test_subscription_options_when_possible_are_accepted(options: dict[str, Any]) -> None:
    made = SubscriptionOptions(**options)
    expected = {**options, "types": tuple(options["types"])} if "types" in options else options
    assert {name: getattr(made, name) for name in options} == expected


@pytest.mark.parametrize(
    ("types", "expected"),
    [(["b", "a", "b"], ("b", "a")), (("a",), ("a",)), ({"b", "a"}, ("a", "b")), (frozenset("a"), ("a",))],
)
def test_types_when_given_are_a_tuple_without_repetition(types: Any, expected: tuple[str, ...]) -> None:
    assert SubscriptionOptions(types=types).types == expected


def test_types_when_a_str_is_refused_with_what_to_write() -> None:
    error = refused(SubscriptionOptions, "types", types="enrolled")
    assert "write types=['enrolled']" in str(error)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("name", ["", "a b", "N" * 65, "n\n", "a.b", 5, b"n"]),
        ("backfill", [1, "yes", None]),
        ("durable", [1, "yes", None]),
        ("reset", [1, "yes", None]),
        ("exclusive", [1, "yes", None]),
        ("on_filter_change", ["from-here", None, True]),
        ("serial", [1, "Strict", None]),
        ("key", ["type", 5, True, ""]),
        ("concurrency", [0, 65_537, 2.0, *BAD_NUMBERS]),
        ("timeout_s", [0, 1e10, *BAD_NUMBERS]),
        ("start", [0, -1, True, 1.5, "1", 2**63, datetime(2024, 1, 1)]),
        ("types", ["a", b"a", 5, {"a": 1}, iter(["a"])]),
        ("aggregate", [5, b"a", "\ud800"]),
        ("batch", [0, -1, True, 1.5, "1", 65_537]),
        ("linger_s", BAD_NUMBERS),
        ("lease_s", [0, 0.99, 1e10, *BAD_NUMBERS]),
        ("prefetch", [0, 65_537, *BAD_NUMBERS]),
        ("prefetch_bytes", [0, 1.5, 2**63, *BAD_NUMBERS]),
        ("circuit", [0, -1, True, 1.5, "1", 65_537]),
        ("retry", [None, 5, {"max_attempts": 3}]),
        ("dead_letter", ["", "a b", "{name}-dead", "-dead", "d\n", 5, True]),
    ],
)
def test_subscription_option_when_wrong_by_itself_is_refused(option: str, values: list[Any]) -> None:
    for value in values:
        refused(SubscriptionOptions, option, **{option: value})


@pytest.mark.parametrize("types", [[], (), set()])
def test_types_when_empty_are_refused(types: Any) -> None:
    with pytest.raises(ConfigError, match="types must not be empty"):
        SubscriptionOptions(types=types)


@pytest.mark.parametrize("types", [["a", 5], [None], ["\ud800"]])
def test_types_when_a_member_is_wrong_are_refused(types: Any) -> None:
    with pytest.raises(ConfigError, match="types") as caught:
        SubscriptionOptions(types=types)
    assert caught.value.argument == "types"


@pytest.mark.parametrize(
    ("option", "options"),
    [
        ("start", {"start": 5, "backfill": True}),
        ("batch", {"batch": 10, "key": "aggregate"}),
        ("batch", {"batch": 10, "prefetch": 9}),
        ("concurrency", {"concurrency": 2, "serial": True}),
        ("concurrency", {"concurrency": 2, "serial": "strict"}),
        ("concurrency", {"concurrency": 10, "prefetch": 9}),
        ("serial", {"serial": True, "name": "n"}),
        ("exclusive", {"exclusive": True, "name": "n"}),
        ("exclusive", {"exclusive": True}),
        ("key", {"key": "aggregate", "name": "n"}),
        ("lease_s", {"lease_s": 5, "serial": True, "durable": True}),
        ("lease_s", {"lease_s": 5, "exclusive": True, "durable": True}),
        ("lease_s", {"lease_s": 5, "key": "aggregate", "durable": True}),
        ("lease_s", {"lease_s": 5, "name": None}),
        ("reset", {"reset": True}),
        ("reset", {"reset": True, "name": "n"}),
    ],
)
def test_subscription_options_when_they_contradict_are_refused(option: str, options: dict[str, Any]) -> None:
    error = refused(SubscriptionOptions, option, **options)
    others = set(options) - {option, "name"}
    assert all(other in str(error) for other in others)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("replicas", [0, 6, *BAD_NUMBERS]),
        ("storage", ["disk", None, "FILE"]),
        ("max_age_s", [0, 0.05, True, "1", math.nan, math.inf, -1]),
        ("max_bytes", [0, -1, True, 1.5, 2**63]),
        ("max_events", [0, -1, True, 1.5, 2**63]),
        ("dedup_window_s", [0, 0.05, *BAD_NUMBERS]),
        ("compression", ["gzip", "", False]),
        ("discard", ["all", None]),
        ("atomic", [1, "yes"]),
        ("fast_ingest", [0, "no"]),
    ],
)
def test_stream_option_when_wrong_is_refused(option: str, values: list[Any]) -> None:
    for value in values:
        refused(StreamOptions, option, **{option: value})


def test_dedup_window_when_longer_than_the_age_is_lowered_to_it() -> None:
    assert StreamOptions(max_age_s=60).dedup_window_s == 60
    assert StreamOptions(max_age_s=600).dedup_window_s == 120


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("initial_s", [0, *BAD_NUMBERS]),
        ("factor", [0.5, *BAD_NUMBERS]),
        ("max_s", [0, *BAD_NUMBERS]),
        ("max_attempts", [0, -1, True, 1.5, "3"]),
    ],
)
def test_retry_option_when_wrong_is_refused(option: str, values: list[Any]) -> None:
    for value in values:
        refused(Retry, option, **{option: value})


def test_retry_when_the_first_delay_is_over_the_longest_is_refused() -> None:
    refused(Retry, "initial_s", initial_s=2.0, max_s=1.0)


def test_delay_when_attempts_grow_doubles_up_to_the_longest() -> None:
    delays = [Retry().delay_s(attempt) for attempt in range(1, 12)]
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-2:] == [30.0, 30.0]


@pytest.mark.parametrize("attempt", [10_000, 2**63, 10**400])
@pytest.mark.parametrize("factor", [2, 2.0, 1e9])
def test_delay_when_the_attempt_is_huge_is_the_longest(attempt: int, factor: float) -> None:
    assert Retry(factor=factor).delay_s(attempt) == 30.0


def test_delay_when_the_factor_is_one_stays() -> None:
    assert Retry(initial_s=0.5, factor=1).delay_s(10**6) == 0.5


def test_merge_when_nothing_is_given_gives_defaults() -> None:
    assert merge_options(None, {}) == SubscriptionOptions()


def test_merge_when_overridden_changes_only_those() -> None:
    base = SubscriptionOptions(name="n", durable=True, types=["a"])
    merged = merge_options(base, {"serial": True})
    assert merged == SubscriptionOptions(name="n", durable=True, types=["a"], serial=True)
    assert base.serial is False


def test_merge_when_the_result_contradicts_is_refused() -> None:
    with pytest.raises(ConfigError, match="backfill"):
        merge_options(SubscriptionOptions(backfill=True), {"start": 5})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("backfil", "did you mean 'backfill'?"),
        ("timeout", "did you mean 'timeout_s'?"),
        ("qqq", "there are name, "),
    ],
)
def test_merge_when_an_option_is_unknown_names_it_and_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        merge_options(None, {name: 1})
    assert caught.value.argument == name
    assert f"unknown option {name!r}" in str(caught.value)
    assert hint in str(caught.value)


def test_merge_when_options_are_of_another_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="options must be SubscriptionOptions"):
        merge_options({"serial": True}, {})  # type: ignore[arg-type]


def test_number_when_it_is_too_large_is_refused_with_the_largest_allowed() -> None:
    with pytest.raises(ConfigError, match=r"timeout_s must be a number, at most 9e\+09, not 1e\+30"):
        SubscriptionOptions(timeout_s=1e30)


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"max_age_s": 60.0}, "max_age_s"),
        ({"max_age_s": 60.0, "discard": "new"}, "max_age_s"),
        ({"max_bytes": 1000}, "max_bytes"),
        ({"max_events": 10}, "max_events"),
    ],
    ids=str,
)
def test_stream_options_when_for_a_store_refuse_limits_that_discard_events(limits: Any, named: str) -> None:
    StreamOptions(**limits)
    with pytest.raises(ConfigError, match=rf"^{named}=.*store=True") as caught:
        StreamOptions(store=True, **limits)
    assert caught.value.argument == named


def test_stream_options_when_for_a_store_allow_limits_that_refuse_events() -> None:
    options = StreamOptions(store=True, max_bytes=1000, max_events=10, discard="new", storage="memory")
    assert options.store
    with pytest.raises(ConfigError, match="store"):
        StreamOptions(store=1)  # type: ignore[arg-type]


def test_stream_options_when_packed_are_not_for_a_store() -> None:
    assert StreamOptions(packed=True, max_age_s=60.0).packed
    with pytest.raises(ConfigError, match=r"packed=True can't be combined with store=True") as caught:
        StreamOptions(packed=True, store=True)
    assert caught.value.argument == "packed"
    with pytest.raises(ConfigError, match="packed"):
        StreamOptions(packed=1)  # type: ignore[arg-type]
