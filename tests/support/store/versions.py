"""Marks for tests of event stores: on each server that can hold one, and on each that can't."""

from __future__ import annotations

import pytest

from servers import VERSIONS

__all__ = ["has_sound_batches", "on_able_servers", "on_old_servers"]

ABLE = [version for version in VERSIONS if not version.startswith("2.10.")]
UNABLE = [version for version in VERSIONS if version not in ABLE]

on_able_servers = pytest.mark.parametrize("server_version", ["current", *reversed(ABLE)], indirect=True)
on_old_servers = pytest.mark.parametrize("server_version", UNABLE, indirect=True)


def has_sound_batches(version: str) -> bool:
    """Return whether replicas of a stream keep the expectation of an append of several events."""
    if version == "current":
        return True
    number = tuple(map(int, version.split(".")))
    return (2, 12, 14) <= number < (2, 13) or number >= (2, 14, 4)
