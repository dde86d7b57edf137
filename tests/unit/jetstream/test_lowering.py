"""Adapting a stream's settings to what a server refuses."""

from __future__ import annotations

from typing import Any

import pytest

from eda.errors import ServerError
from eda.jetstream.lowering import MIN_BYTES, lowered_stream

WINDOW = "duplicates window can not be larger then server limit of {}"


def refusal(err_code: int, description: str = "") -> ServerError:
    return ServerError(500, err_code, description)


@pytest.mark.parametrize(
    ("limit", "seconds"), [("1m30s", 90), ("10s", 10), ("1h0m0s", 3600), ("500ms", 0.5), ("1.5s", 1.5), ("2m0s", 120)]
)
def test_window_when_the_server_names_its_limit_is_that(limit: str, seconds: float) -> None:
    config: dict[str, Any] = {"name": "s", "duplicate_window": 7200 * 10**9, "max_bytes": -1}
    changed = lowered_stream(config, refusal(10052, WINDOW.format(limit)))
    assert changed == config | {"duplicate_window": int(seconds * 10**9)}


@pytest.mark.parametrize("text", ["", WINDOW.format("nonsense"), WINDOW.format("10s").replace("limit of", ""), "10s"])
def test_window_when_no_limit_is_named_is_not_adapted(text: str) -> None:
    assert lowered_stream({"duplicate_window": 120 * 10**9}, refusal(10052, text)) is None


def test_window_when_it_is_within_the_limit_already_is_not_adapted() -> None:
    assert lowered_stream({"duplicate_window": 5 * 10**9}, refusal(10052, WINDOW.format("10s"))) is None


def test_bytes_when_a_limit_is_demanded_are_tried_and_halved_until_they_are_too_few() -> None:
    config: dict[str, Any] | None = {"name": "s", "max_bytes": -1}
    assert config is not None
    config = lowered_stream(config, refusal(10113), max_bytes=2**20)
    assert config == {"name": "s", "max_bytes": 2**20}
    tried = []
    while config is not None:
        tried.append(config["max_bytes"])
        config = lowered_stream(config, refusal(10122), max_bytes=2**20)
    assert tried == [2**20 >> n for n in range(5)]
    assert tried[-1] == MIN_BYTES


@pytest.mark.parametrize("code", [10113, 10122, 10047])
def test_bytes_when_they_are_the_callers_own_stay(code: int) -> None:
    assert lowered_stream({"max_bytes": 2**20}, refusal(code)) is None
    assert lowered_stream({"max_bytes": 2**21}, refusal(code), max_bytes=2**20) is None


def test_refusal_when_it_is_another_is_not_adapted_to() -> None:
    assert lowered_stream({"duplicate_window": 120 * 10**9}, refusal(10058), max_bytes=2**20) is None
