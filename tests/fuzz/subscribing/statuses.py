"""Fuzz target: what comes to the inbox of a subscription: pull statuses, heartbeats, and deliveries among them.

A message is `<rest of the subject>\\0<headers><payload>`. The rest of the subject `$` (one byte) makes it a delivery.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

from eda._codec import encode_event
from eda._event import Event
from eda.subscribing.source import Source
from eda.transport._outbound import Outbound
from fuzz.cuts import messages
from support.handling.dispatching import Rig, delivery

__all__ = ["check"]

SUBJECT = re.compile(rb"[^ \t\r\n]+")
STATUS = re.compile(rb"NATS/1\.0 ([1-9][0-9]{2})")
LIMIT = 100
LIMIT_BYTES = 10**6
MAX_PULLS = 64
PAYLOAD = encode_event(Event(type="t"))

_logger = logging.getLogger("fuzz.statuses")
_logger.disabled = True
_loop = asyncio.new_event_loop()


class Wire:
    """What pulls need of a connection."""

    def __init__(self) -> None:
        self.out = Outbound(lambda: None)
        self.written: list[bytes] = []
        self.out.set_write(self.written.append)
        self.is_up = self.is_closed = True

    def new_inbox(self) -> str:
        return "_INBOX.me"


class Api:
    prefix = "$JS.API"


class Puller(Source):
    """Pulls of a rig's dispatcher."""

    def __init__(self, wire: Any, api: Any) -> None:
        super().__init__(wire, api, _logger, "orders", "me", self.ended)
        self.consumer = "me"
        self.n_gone = self.n_silent = 0
        self.heartbeats: list[int] = []

    def ended(self, error: Exception) -> None:
        raise AssertionError("no status ends a subscription by itself")

    def begin(self, rig: Rig) -> None:
        self._dispatcher = rig.dispatcher
        rig.dispatcher.credit.refill()

    def on_gone(self, why: str) -> None:
        self.n_gone += 1

    def on_silent(self, why: str) -> None:
        self.n_silent += 1

    def on_restored(self) -> None: ...

    def on_heartbeat(self, last_consumer_seq: int) -> None:
        self.heartbeats.append(last_consumer_seq)

    def pause_over(self) -> None:
        """Let the pause be over, if there is one."""
        if self._retry is not None:
            self._retry.cancel()
            self._pull_again()


class StatusRig(Rig):
    """A rig whose pulls are real ones."""

    puller: Puller

    def on_status(self, status: int, tail: bytes, headers: bytes) -> None:
        super().on_status(status, tail, headers)
        self.puller.on_status(status, tail, headers)

    def pull(self, n: int, n_bytes: int) -> None:
        assert 0 < n <= LIMIT
        assert 0 < n_bytes <= LIMIT_BYTES
        self.puller.pull(n, n_bytes)


async def run(data: bytes) -> None:
    rig = StatusRig(start=False, limit=LIMIT, limit_bytes=LIMIT_BYTES)
    wire = Wire()
    rig.puller = Puller(wire, Api())
    rig.puller.begin(rig)
    n_statuses = n_foreign = seq = 0
    for tail, headers, payload in messages(data):
        if tail == b"$":
            seq += 1
            subject, reply = delivery(seq)
            rig.feed(subject, reply, PAYLOAD, headers)
        elif SUBJECT.fullmatch(tail):
            if STATUS.match(headers):
                n_statuses += 1
            else:
                n_foreign += 1
            rig.feed(b"_INBOX.me." + tail, b"", payload, headers)
        dispatcher = rig.dispatcher
        assert 0 <= dispatcher.credit.n_messages <= LIMIT
        assert 0 <= dispatcher.credit.n_bytes <= LIMIT_BYTES
        assert (len(rig.statuses), dispatcher.intake.n_foreign) == (n_statuses, n_foreign)
        assert dispatcher.n_held == seq
        if dispatcher.credit.n_messages == 0:
            rig.puller.pause_over()
    rig.puller._stopped = True
    rig.puller.pause_over()
    wire.out.flush()
    n_pulls = check_pulls(b"".join(wire.written))
    assert n_pulls <= 1 + 2 * (n_statuses + seq)  # each message leads to two at most, the second when a pause is over


def check_pulls(written: bytes) -> int:
    """Only pulls were written, to this stream and consumer."""
    lines = written.split(b"\r\n")
    for line in lines[:-1:2]:
        assert re.fullmatch(rb"PUB \$JS\.API\.CONSUMER\.MSG\.NEXT\.orders\.me _INBOX\.me\.[0-9]+ [0-9]+", line), line
    return len(lines) // 2


def check(data: bytes) -> None:
    """Whatever is said of pulls, credit stays within the limits, and nothing but pulls goes out."""
    _loop.run_until_complete(run(data))
