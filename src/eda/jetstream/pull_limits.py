"""The server's limits for pulls and consumers, from a consumer's settings or the texts of refusals.

Source: nats-server's server/consumer.go (checkConsumerCfg, processNextMsgRequest). A server copies its own
`max_request_batch` into the setting `max_batch` of every consumer. Its other limits appear only in the texts of
refusals.
"""

from __future__ import annotations

import re
from typing import Any

from eda.errors import ServerError
from eda.server_codes import INACTIVE_THRESHOLD_EXCEEDED, MAX_ACK_PENDING_EXCEEDED
from eda.times import NS

__all__ = ["PullLimits", "duration_s", "lowered_consumer", "nanoseconds_of"]

_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:h|ms|us|µs|μs|ns|m|s))+")
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(h|ms|us|µs|μs|ns|m|s)")
_UNIT_NS = {"h": 3600 * NS, "m": 60 * NS, "s": NS, "ms": 10**6, "us": 1000, "µs": 1000, "μs": 1000, "ns": 1}
_LIMIT = re.compile(r"limit of (\S+)$")
_SETTING = {"requestbatch": "n", "requestexpires": "expires_ns", "requestmaxbytes": "n_bytes"}
_EXCEEDED = re.compile(r"exceeded max(requestbatch|requestexpires|requestmaxbytes) of (\S+)")


def duration_s(text: str) -> float | None:
    """Return the seconds of a duration as Go writes it ("1m30s"); None for any other text."""
    ns = nanoseconds_of(text)
    return None if ns is None else ns / NS


def nanoseconds_of(text: str) -> int | None:
    """Return the nanoseconds of a duration as Go writes it ("1m30s"); None for any other text."""
    if not _DURATION.fullmatch(text):
        return None
    return int(sum(float(number) * _UNIT_NS[unit] for number, unit in _PART.findall(text)))


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def lowered_consumer(config: dict[str, Any], refusal: ServerError) -> dict[str, Any] | None:
    """Return the consumer's settings, lowered to the limit that the refusal names; None if that can't help."""
    found = _LIMIT.search(refusal.description)
    if found is None:
        return None
    if refusal.err_code == MAX_ACK_PENDING_EXCEEDED:
        setting, most = "max_ack_pending", _count(found[1])
    elif refusal.err_code == INACTIVE_THRESHOLD_EXCEEDED:
        setting, most = "inactive_threshold", nanoseconds_of(found[1])
    else:
        return None
    asked = config.get(setting, 0)
    if not most or (0 < asked <= most):
        return None  # the same settings would be refused again
    return config | {setting: most}


class PullLimits:
    """The limits of one consumer for a single pull. 0 means no limit."""

    def __init__(self) -> None:
        self.n: int = 0
        self.expires_ns: int = 0
        self.n_bytes: int = 0
        self.n_waiting: int = 0

    def read(self, config: dict[str, Any]) -> None:
        """Set the limits from the consumer's settings."""
        self.n = max(config.get("max_batch") or 0, 0)
        self.expires_ns = max(config.get("max_expires") or 0, 0)
        self.n_bytes = max(config.get("max_bytes") or 0, 0)
        self.n_waiting = max(config.get("max_waiting") or 0, 0)

    def learn(self, description: str) -> bool | None:
        """Set the limit that the status of a refused pull names. `description` is the status in lower case.

        Return whether the limit is new or lower than before; None if the status names no limit.
        """
        found = _EXCEEDED.search(description)
        most = None if found is None else nanoseconds_of(found[2]) if found[1] == "requestexpires" else _count(found[2])
        if found is None or not most:
            return None
        setting = _SETTING[found[1]]
        if 0 < getattr(self, setting) <= most:
            return False
        setattr(self, setting, most)
        return True

    def within(self, n: int, expires_ns: int, n_bytes: int | None) -> tuple[int, int, int | None]:
        """Return a pull's number of messages, expiry and bytes, lowered to the limits."""
        if self.n:
            n = min(n, self.n)
        if self.expires_ns:
            expires_ns = min(expires_ns, self.expires_ns)
        if self.n_bytes and n_bytes is not None:
            n_bytes = min(n_bytes, self.n_bytes)
        return n, expires_ns, n_bytes
