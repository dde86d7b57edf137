"""How many members stand by for a cursor: they say so when they are asked.

A standby leaves no trace on the server. So whoever wants to know asks all of a stream at once, with a plain message,
and counts who answers in time. The subjects cross leaf nodes. An answer goes to a subject of this purpose alone: nobody
can have a client publish anywhere else.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError

from eda._clock import read_monotonic_ns
from eda._nuid import next_nuid
from eda.errors import Closed
from eda.jetstream.subjects import escape_token
from eda.transport._callback_sink import CallbackSink
from eda.transport.wire import Wire

__all__ = ["ANSWERS_S", "Standby", "count_standbys"]

ANSWERS_S = 0.5  # how long standbys are listened to
PAUSE_NS = 50_000_000  # nanoseconds between two answers of one standby: questions may come from anybody
MAX_TOKEN = 64
MAX_NAME = 64


def _subject(domain: str, stream: str, what: str) -> str:
    return f"$EDA.{what}.{escape_token(domain)}.{stream}"


class Standby:
    """Answers for a member that stands by for the cursor `name`; `domain`: the stream's."""

    def __init__(self, wire: Wire, domain: str, stream: str, name: str) -> None:
        self._wire = wire
        self._question = _subject(domain, stream, "standby")
        self._answer = _subject(domain, stream, "standing")
        self._name = name.encode()
        self._subscription: NatsSubscription | None = None
        self._not_before_ns = 0

    async def begin(self) -> None:
        """Answer from now on. Raises Closed."""
        if self._subscription is None:
            try:
                self._subscription = await self._wire.attach(self._question, CallbackSink(0, self._take))
            except NatsError as error:
                raise Closed("connection") from error

    async def end(self) -> None:
        """Answer no more."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with suppress(NatsError):  # closed meanwhile, and the subscription with it
                await self._wire.detach(subscription)
            self._wire.release(subscription)

    def _take(self, tail: bytes, headers: bytes, token: bytes) -> None:
        now = read_monotonic_ns()
        if now < self._not_before_ns or not token.isalnum() or len(token) > MAX_TOKEN:
            return
        self._not_before_ns = now + PAUSE_NS
        head = f"PUB {self._answer}.{token.decode()} {len(self._name)}\r\n".encode()
        self._wire.out.command(head + self._name + b"\r\n")


async def count_standbys(wire: Wire, domain: str, stream: str, names: set[str]) -> Counter[str] | None:
    """Return how many members stand by for each of these cursors, as far as they answer within 0.5 s.

    None where asking is forbidden. Raises Closed.
    """
    counted: Counter[str] = Counter()
    known = {name.encode(): name for name in names}
    token = next_nuid()
    question, answers = _subject(domain, stream, "standby"), f"{_subject(domain, stream, 'standing')}.{token}"
    refused = asyncio.Event()

    def take(tail: bytes, headers: bytes, payload: bytes) -> None:
        name = known.get(payload) if len(payload) <= MAX_NAME else None
        if name is not None:
            counted[name] += 1

    def on_refused(kind: str, subject: str) -> None:
        if subject in (question, answers):
            refused.set()

    wire.on_refused.append(on_refused)
    try:
        subscription = await wire.attach(answers, CallbackSink(0, take))
        try:
            wire.out.command(f"PUB {question} {len(token)}\r\n{token}\r\n".encode())
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWERS_S):
                    await refused.wait()
        finally:
            if not wire.is_closed:
                await wire.detach(subscription)
            wire.release(subscription)
    except NatsError as error:
        raise Closed("connection") from error
    finally:
        wire.on_refused.remove(on_refused)
    return None if refused.is_set() else counted
