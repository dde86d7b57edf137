"""What is wrong with a bucket's settings."""

from __future__ import annotations

from typing import Any

import pytest

from eda.jetstream.bucket import bucket_for, fault_of, settings_of
from eda.options import StreamOptions


def bucket_config(**settings: Any) -> dict[str, Any]:
    return settings_of(bucket_for(StreamOptions(), StreamOptions())) | settings


@pytest.mark.parametrize(
    ("stream", "settings", "is_wrong"),
    [
        (StreamOptions(), {"storage": "file"}, False),
        (StreamOptions(), {"storage": "memory"}, True),
        (StreamOptions(), {"storage": "memory", "num_replicas": 3}, True),
        (StreamOptions(storage="memory"), {"storage": "memory"}, False),
        (StreamOptions(storage="memory", replicas=3), {"storage": "memory"}, True),
        (StreamOptions(storage="memory", replicas=3), {"storage": "memory", "num_replicas": 3}, False),
        (StreamOptions(replicas=3), {"storage": "file"}, False),
    ],
)
def test_memory_when_the_stream_outlives_it_is_a_fault(
    stream: StreamOptions, settings: dict[str, Any], is_wrong: bool
) -> None:
    fault = fault_of(bucket_config(**settings), bucket_for(stream, StreamOptions()))
    assert fault.startswith("storage='memory'") == is_wrong
    assert bool(fault) == is_wrong


@pytest.mark.parametrize(
    ("stream", "defaults", "storage", "replicas"),
    [
        (StreamOptions(), StreamOptions(), "file", 1),
        (StreamOptions(replicas=3), StreamOptions(), "file", 3),
        (StreamOptions(), StreamOptions(replicas=3), "file", 3),
        (StreamOptions(storage="memory"), StreamOptions(), "file", 1),
        (StreamOptions(), StreamOptions(storage="memory"), "file", 1),
        (StreamOptions(storage="memory"), StreamOptions(storage="memory", replicas=3), "memory", 3),
    ],
)
def test_bucket_when_made_is_as_stream_and_defaults_say_and_without_fault(
    stream: StreamOptions, defaults: StreamOptions, storage: str, replicas: int
) -> None:
    bucket = bucket_for(stream, defaults)
    config = settings_of(bucket)
    assert (config["storage"], config["num_replicas"]) == (storage, replicas)
    assert fault_of(config, bucket) == ""


def test_settings_when_the_server_leaves_them_out_are_harmless() -> None:
    bucket = bucket_for(StreamOptions(), StreamOptions())
    assert fault_of({"subjects": ["$KV.eda-cursors.>"]}, bucket) == ""
