"""What a server of a version is taken to support."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from eda.jetstream.api import Api


def api_of(version: str) -> Api:
    wire: Any = SimpleNamespace(server_version=version)
    return Api(wire, None)


@pytest.mark.parametrize(
    ("version", "are_sound"),
    [
        ("2.12.1", False),
        ("2.12.13", False),
        ("2.12.14", True),
        ("2.13.0", False),
        ("2.14.0", False),
        ("2.14.3", False),
        ("2.14.4", True),
        ("2.14.4-RC.1", True),
        ("2.15.1", True),
        ("3.0.0", True),
        ("", False),
    ],
)
def test_batches_when_the_server_forgets_their_filter_are_not_sound(version: str, are_sound: bool) -> None:
    assert api_of(version).has_sound_batches == are_sound
