"""What a standby listens to: writes of the cursor, and questions about how many members stand by.

A standby leaves no trace on the server. So a program that wants to know how many members stand by asks all standbys of
a stream at once with a plain message, and counts the answers that arrive in time. These messages cross leaf nodes. The
answers go only to subjects that serve nothing else, so nobody can make a standby publish anywhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError

from eda._clock import read_monotonic_ns
from eda._nuid import next_nuid
from eda.cursors.value import may_be_free
from eda.errors import Closed
from eda.jetstream.api import Api
from eda.jetstream.ask_all import ask_all
from eda.jetstream.bucket_requests import key_subject
from eda.jetstream.subjects import escape_token
from eda.names import MAX_NAME
from eda.transport._callback_sink import CallbackSink
from eda.transport.wire import Wire

__all__ = ["ANSWERS_S", "Standby", "count_standbys"]

ANSWERS_S = 0.5  # how long to wait for the answers of standbys
PAUSE_NS = 50_000_000  # the least time between two answers of one standby, because anybody may ask
MAX_TOKEN = 64


def _subject(domain: str, stream: str, what: str) -> str:
    return f"$EDA.{what}.{escape_token(domain)}.{stream}"


class Standby:
    """The subscriptions of a member that stands by for the cursor `name` of `stream`.

    `on_hint(payload, may_be_free)` is called for each message that anybody publishes to the cursor's key. A hint proves
    nothing: the message may not have been stored. No hints arrive from another domain.
    """

    def __init__(self, wire: Wire, api: Api, stream: str, name: str, on_hint: Callable[[bytes, bool], None]) -> None:
        self._wire = wire
        self._api = api
        self._key_subject = key_subject(stream, name)
        self._on_hint = on_hint
        self._question = _subject(api.domain, stream, "standby")
        self._answer = _subject(api.domain, stream, "standing")
        self._name = name.encode()
        self._subscriptions: dict[str, NatsSubscription] = {}  # by subject
        self._not_before_ns = 0

    @property
    def has_hints(self) -> bool:
        """Return whether hints can arrive: the bucket is not in another domain."""
        return not self._api.is_foreign

    async def start(self) -> None:
        """Listen to hints and questions. Does nothing if already started. Raises Closed."""
        # In another domain the hints would have to come from `$JS.<domain>.API.$KV…`. Don't subscribe to that subject:
        # the leaf node then finds nobody who answers the domain's API (seen with nats-server 2.15.1).
        if self.has_hints:
            await self._attach(self._key_subject, self._take_hint)
        await self._attach(self._question, self._take_question)

    async def stop(self) -> None:
        """Stop listening. Does nothing if not started."""
        while self._subscriptions:  # if an error ends this, the next call ends the rest
            _, subscription = self._subscriptions.popitem()
            try:
                with suppress(NatsError):  # the connection was closed meanwhile, and the subscription with it
                    await self._wire.detach(subscription)
            finally:
                self._wire.release(subscription)

    async def _attach(self, subject: str, take: Callable[[bytes, bytes, bytes], None]) -> None:
        if subject not in self._subscriptions:
            try:
                self._subscriptions[subject] = await self._wire.attach(subject, CallbackSink(0, take))
            except NatsError as error:
                raise Closed("connection") from error

    def _take_hint(self, tail: bytes, headers: bytes, payload: bytes) -> None:
        self._on_hint(payload, may_be_free(payload))

    def _take_question(self, tail: bytes, headers: bytes, token: bytes) -> None:
        now = read_monotonic_ns()
        if now < self._not_before_ns or not token.isalnum() or len(token) > MAX_TOKEN:
            return
        self._not_before_ns = now + PAUSE_NS
        head = f"PUB {self._answer}.{token.decode()} {len(self._name)}\r\n".encode()
        self._wire.out.command(head + self._name + b"\r\n")


async def count_standbys(wire: Wire, domain: str, stream: str, names: set[str]) -> Counter[str] | None:
    """Return how many members stand by for each of these cursors, counting those that answer within 0.5 s.

    If nobody stands by for the stream, the server says so, and there is no wait. Return None if it forbids us to ask.
    Raises Closed.
    """
    counted: Counter[str] = Counter()
    known = {name.encode(): name for name in names}
    token = next_nuid()
    question, answers = _subject(domain, stream, "standby"), f"{_subject(domain, stream, 'standing')}.{token}"

    def take(answer: bytes) -> None:
        name = known.get(answer) if len(answer) <= MAX_NAME else None
        if name is not None:
            counted[name] += 1

    is_allowed = await ask_all(wire, question, token.encode(), answers, take, ANSWERS_S)
    return counted if is_allowed else None
