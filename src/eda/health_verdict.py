"""The verdict of a health check: which conditions are problems, and how bad they are. docs/health.md has the rules."""

from __future__ import annotations

from typing import Any, Literal

__all__ = ["Status", "verdict_of"]

Status = Literal["ok", "degraded", "down"]

STUCK_SHARE = 0.5  # of a publisher's time-out: an event that waits for longer is a problem

_OF_SUBSCRIPTION = {
    "suspended": "is suspended: another member changed the consumer's filter",
    "not_stored": "handles nothing, because its position can't be stored",
    "circuit_open": "has an open circuit: its handlers fail for one event after another",
}


def verdict_of(report: dict[str, Any]) -> tuple[Status, list[str]]:
    """Return the status and the problems, as sentences, of a report of `Health`."""
    of_connection = _of_connection(report)
    problems = [
        *of_connection,
        *(each for item in report["subscriptions"] for each in _of_subscription(item)),
        *(each for item in report["publishers"] for each in _of_publisher(item)),
        *(each for item in report["projections"] for each in _of_projection(item)),
        *(each for item in report["views"] for each in _of_side("the view of projection", item)),
        *(each for item in report["relays"] for each in _of_side("the relay of outbox", item)),
    ]
    return "down" if of_connection else "degraded" if problems else "ok", problems


def _of_connection(report: dict[str, Any]) -> list[str]:
    address, state = report["server"]["address"], report["state"]
    if state == "new":
        return ["the connection is not open yet"]
    if state == "closed":
        return ["the connection is closed"]
    if report["closing"]:
        return ["the connection is being closed"]
    if report["disconnected_s"] is not None:
        failure = report["last_failure"]
        why = f"; the last attempt to reconnect failed: {failure}" if failure else ""
        return [f"the connection to {address} has been lost for {report['disconnected_s']:.1f} s{why}"]
    silent_s = report["server"]["silent_s"]
    if silent_s is not None:
        return [f"the server at {address} has not answered for {silent_s:.1f} s"]
    return []


def _of_subscription(item: dict[str, Any]) -> list[str]:
    name = f"subscription {item['name']} to {item['stream']}"
    if item["state"] == "ended":
        return [f"{name} has ended: {item['error']}"]
    if item["state"] in _OF_SUBSCRIPTION:
        return [f"{name} {_OF_SUBSCRIPTION[item['state']]}"]
    return [f"{name} makes no progress: {item['stalled']}"] if item["stalled"] else []


def _of_publisher(item: dict[str, Any]) -> list[str]:
    waited_s, timeout_s = item["oldest_pending_s"], item["timeout_s"]
    if not waited_s or not timeout_s or waited_s <= timeout_s * STUCK_SHARE:
        return []
    kind = "a call of publish" if item["kind"] == "publish" else "the publisher"
    waits = f"has waited {waited_s:.1f} s for the acknowledgement of its oldest event"
    return [f"{kind} to {item['stream']} {waits}, which fails after {timeout_s:g} s"]


def _of_projection(item: dict[str, Any]) -> list[str]:
    name = f"projection {item['name']} version {item['version']}"
    if item["state"] == "ended":
        return [f"{name} has ended: {item['error']}"]
    failing = [each["stream"] for each in item["streams"] if each["state"] == "no_database"]
    return [f"{name} can't use its database, and applies nothing of {', '.join(failing)}"] if failing else []


def _of_side(kind: str, item: dict[str, Any]) -> list[str]:
    if item["state"] == "ended":
        return [f"{kind} {item['name']} has ended: {item['error']}"]
    return [f"{kind} {item['name']} can't use its database"] if item["state"] == "no_database" else []
