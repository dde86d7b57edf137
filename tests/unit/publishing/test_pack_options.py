"""`eda.Pack`: what it refuses, and what a publisher with packs may have pending."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import eda
from eda.publishing.publisher_options import PublisherOptions


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("max_events", 0),
        ("max_events", 65_537),
        ("max_events", True),
        ("max_events", "128"),
        ("max_bytes", 1023),
        ("max_bytes", 16 * 2**20 + 1),
        ("max_bytes", 2000.0),
        ("linger_s", -0.001),
        ("linger_s", 60.1),
        ("linger_s", float("nan")),
        ("linger_s", None),
        ("linger_s", True),
        ("compression", "gzip"),
        ("compression", ""),
        ("compression", 5),
    ],
)
def test_pack_when_an_option_is_wrong_names_it(argument: str, value: Any) -> None:
    with pytest.raises(eda.ConfigError, match=argument) as caught:
        eda.Pack(**{argument: value})
    assert caught.value.argument == argument


def test_pack_takes_the_smallest_and_largest_values() -> None:
    eda.Pack(max_events=1, max_bytes=1024, linger_s=0)
    eda.Pack(max_events=65_536, max_bytes=16 * 2**20, linger_s=60, compression="zstd")
    assert eda.Pack() == eda.Pack(max_events=128, max_bytes=64 * 1024, linger_s=0.002, compression=None)


def test_pack_when_the_package_is_missing_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "compression.zstd" if sys.version_info >= (3, 14) else "zstandard", None)
    with pytest.raises(eda.ConfigError, match=r"pip install 'eda-fast\[zstd\]'") as caught:
        eda.Pack(compression="zstd")
    assert caught.value.argument == "compression"


def test_window_of_a_publisher_with_packs_is_larger_unless_it_is_given() -> None:
    plain, packed = PublisherOptions(), PublisherOptions(pack=eda.Pack())
    assert (plain.window_events, plain.window_bytes) == (4096, 8 * 2**20)
    assert (packed.window_events, packed.window_bytes) == (65_536, 16 * 2**20)
    given = PublisherOptions(pack=eda.Pack(), max_pending=7, max_pending_bytes=9)
    assert (given.window_events, given.window_bytes) == (7, 9)


@pytest.mark.parametrize("pack", [128, True, "zstd", {"max_events": 5}])
def test_publisher_options_when_pack_is_no_pack_refuse_it(pack: Any) -> None:
    with pytest.raises(eda.ConfigError) as caught:
        PublisherOptions(pack=pack)
    assert caught.value.argument == "pack"
