"""Streams and consumers with settings as other tools make them, and what a diagnosis says about them."""

from __future__ import annotations

from typing import Any

import eda
from helpers import Admin

__all__ = ["consume", "create", "only", "severities"]


async def create(admin: Admin, stream: str, **settings: Any) -> None:
    """Create a stream with these settings beside those that a stream of eda has."""
    usual = {"subjects": [stream, f"{stream}.>"], "allow_direct": True, "allow_atomic": True, "allow_batched": True}
    await admin.api(f"STREAM.CREATE.{stream}", {"name": stream, **usual, **settings})


async def consume(admin: Admin, stream: str, name: str, **settings: Any) -> None:
    """Create a durable consumer with these settings beside those that members can share."""
    usual = {"durable_name": name, "name": name, "ack_policy": "explicit", "deliver_policy": "all"}
    body = {"stream_name": stream, "config": {**usual, **settings}}
    await admin.api(f"CONSUMER.CREATE.{stream}.{name}", body)


def only(findings: list[eda.Finding], check: str) -> eda.Finding:
    """Return the only finding of a check."""
    found = [each for each in findings if each.check == check]
    assert len(found) == 1, f"{check}: {found or severities(findings)}"
    return found[0]


def severities(findings: list[eda.Finding], *, least: str = "note") -> dict[str, str]:
    """Return the checks whose findings are at least as severe, with their severities."""
    order = ["ok", "note", "warning", "problem"]
    return {each.check: each.severity for each in findings if order.index(each.severity) >= order.index(least)}
