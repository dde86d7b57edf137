"""Pulls from a consumer: credit kept ahead of the events, and what statuses mean.

Source for pulls and their statuses: https://docs.nats.io/nats-concepts/jetstream/consumers, ADR-13 and ADR-37.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import Any

import msgspec
from nats.aio.subscription import Subscription as NatsSubscription

from eda.errors import Closed, EdaError, ServerError, Timeout
from eda.handling._dispatch import Dispatcher
from eda.jetstream.api import Api
from eda.jetstream.pull_limits import PullLimits
from eda.times import NS
from eda.transport.wire import Wire

__all__ = ["BARRIER_S", "PRIVATE_LIFE_S", "Pulls"]

PRIVATE_LIFE_S = 60.0
BARRIER_S = 5.0  # how long the server may take to read everything that was written
EXPIRES_S = 30.0
HEARTBEAT_S = 5.0
LOOK_EVERY_S = 10.0
LOOK_SOON_S = 1.0
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 2.0
# Statuses of pulls that may pass: a change of leader and the like, too many pulls, nobody responds.
PASSING = frozenset({404, 408, 409, 429, 503})
N_REFUSALS = 3  # so many pulls in a row that are refused for good end the subscription


class Pulls:
    """Keeps a dispatcher supplied from a consumer, through whatever happens to its pulls.

    What happens to the consumer itself is for the two kinds, shared and ordered: they say what `on_gone`, `on_silent`
    and `on_restored` mean. `on_end(error)` is called once when the subscription can't go on.
    """

    def __init__(
        self, wire: Wire, api: Api, logger: logging.Logger, stream: str, on_end: Callable[[Exception], None]
    ) -> None:
        self._wire = wire
        self._api = api
        self._logger = logger
        self._stream = stream
        self._on_end = on_end
        self.consumer = ""
        self._inbox = wire.new_inbox()
        self.inbox = f"{self._inbox}.".encode()
        self._subscription: NatsSubscription | None = None
        self._dispatcher: Dispatcher | None = None
        self._loop = asyncio.get_running_loop()
        self._next_pull = 1
        self._first_valid = 1  # pulls before this one are over, whatever is still said of them
        self.limits = PullLimits()
        self._limited_from = 1  # the first pull that keeps to them
        self.lease_s = inf  # how long the server waits for an acknowledgement
        self._looked_at = self._loop.time()  # at the consumer
        self._n_failed = 0  # then
        self._n_seen = 0
        self._seen_at = 0.0
        self._seen_at_full = 0  # the last sequence when a pull ended because the next event was too large for it
        self._n_refused = 0  # pulls in a row
        self._seen_at_refusal = 0  # the last sequence then
        self._retry: asyncio.TimerHandle | None = None
        self._retry_s = RETRY_FIRST_S
        self._stopped = False
        self.stands_by = False  # a shared one whose filter no longer covers the consumer's

    # --- what the two kinds do ---------------------------------------------------------------------------------------

    def on_gone(self, why: str) -> None:
        """Take the server's word that the consumer is gone."""
        raise NotImplementedError

    def on_silent(self, why: str) -> None:
        """See whether the consumer is still there."""
        raise NotImplementedError

    def look(self, why: str) -> None:
        """See whether the consumer is as it has to be."""
        raise NotImplementedError

    def on_stripped(self, seq: int, reply: bytes) -> None:
        """Take a delivery whose body the consumer has left out."""
        raise NotImplementedError

    def on_restored(self) -> None:
        """Go on after a reconnect."""
        raise NotImplementedError

    def on_unwanted(self, seq: int, reply: bytes) -> None:
        """Take a delivery that the subscription's filter does not want; only a shared one is asked."""
        raise NotImplementedError

    def on_heartbeat(self, last_consumer_seq: int) -> None:
        """Take what a heartbeat says of the last delivery."""

    # --- beginning and end -------------------------------------------------------------------------------------------

    async def attach(self, dispatcher: Dispatcher) -> None:
        """Begin to listen for the dispatcher; nothing is pulled yet."""
        self._dispatcher = dispatcher
        self._subscription = await self._attached(dispatcher)
        self._wire.on_restored.append(self._on_restored)
        self._wire.on_lost.append(self._on_lost)
        self._seen_at = self._loop.time()

    async def _attached(self, dispatcher: Dispatcher) -> NatsSubscription:
        return await self._wire.attach(f"{self._inbox}.*", dispatcher)

    async def stop(self, timeout_s: float) -> None:
        """Stop the deliveries; returns when none is under way any more, or nobody can tell."""
        self._stopped = True
        if self._retry is not None:
            self._retry.cancel()
        if self._on_restored in self._wire.on_restored:
            self._wire.on_restored.remove(self._on_restored)
            self._wire.on_lost.remove(self._on_lost)
        if self._subscription is None or self._wire.is_closed:
            return
        await self._wire.detach(self._subscription)
        try:
            await self._wire.barrier(timeout_s)
        except (Timeout, Closed) as error:
            self._logger.warning(
                "closing a subscription to %s: the end of its deliveries is not confirmed: %s", self._stream, error
            )

    def release(self) -> None:
        """Forget the dispatcher."""
        if self._subscription is not None:
            self._wire.release(self._subscription)
            self._subscription = None

    # --- pulls -------------------------------------------------------------------------------------------------------

    @property
    def pull_subject(self) -> str:
        """Where pulls are published to."""
        return f"{self._api.prefix}.CONSUMER.MSG.NEXT.{self._stream}.{self.consumer}"

    def pull(self, n: int, n_bytes: int | None) -> None:
        """Ask for up to `n` more events of `n_bytes` together (None: one of any size)."""
        if self._stopped or self._retry is not None or not self._wire.is_up or self._dispatcher is None:
            return
        if not self.consumer:
            return
        n_wanted = n
        n, expires_ns, n_bytes = self.limits.within(n, int(EXPIRES_S * NS), n_bytes)
        # The server refuses a heartbeat that is longer than half of the time.
        request = {"batch": n, "expires": expires_ns, "idle_heartbeat": min(int(HEARTBEAT_S * NS), expires_ns // 2)}
        if n_bytes is not None:
            request["max_bytes"] = n_bytes
        body = msgspec.json.encode(request)
        head = f"PUB {self.pull_subject} {self._inbox}.{self._next_pull} {len(body)}\r\n".encode()
        self._wire.out.request(head + body + b"\r\n")
        self._dispatcher.grant(self._next_pull, n, n_bytes or 0)
        self._next_pull += 1
        if n < n_wanted:
            self._dispatcher.refill()  # the rest by another pull

    def on_status(self, status: int, tail: bytes, headers: bytes) -> None:
        """Take what the server says of a pull."""
        if self._dispatcher is None or self._stopped:
            return
        if not tail.isdigit() or len(tail) > 18 or not self._first_valid <= int(tail) < self._next_pull:
            return
        self._or_end(self._take_status, self._dispatcher, status, tail, headers)

    def _take_status(self, dispatcher: Dispatcher, status: int, tail: bytes, headers: bytes) -> None:
        description, numbers = _read_status(headers)
        if status in PASSING or status == 100:
            self._n_refused = 0
        if status == 100:
            last = numbers.get(b"nats-last-consumer")
            if last is not None:
                self.on_heartbeat(last)
            return
        n_left = numbers.get(b"nats-pending-messages")
        if status in (404, 408) or (status == 409 and n_left is not None):
            self._retry_s = RETRY_FIRST_S
            dispatcher.revoke(int(tail), -1 if n_left is None else n_left)
            if "exceeds maxbytes" not in description:
                dispatcher.refill()
            elif dispatcher.seen != self._seen_at_full:
                # It brought something, or the one before did: there may be room for more.
                self._seen_at_full = dispatcher.seen
                dispatcher.refill()
            elif dispatcher.n_held == 0:
                # Nothing else is held, and still it does not fit: one event, whatever its size.
                dispatcher.revoke_all()
                self.pull(1, None)
        elif status == 409 and self._learns(int(tail), description):
            dispatcher.revoke(int(tail), -1)
            dispatcher.refill()
        elif status == 409 and "consumer deleted" in description:
            self.on_gone("it was deleted")
        elif status == 409 and "push based" in description:
            self.on_gone("it was replaced by a push consumer")
        else:
            if 400 <= status < 500 and status not in PASSING and self._is_refused_again(dispatcher):
                self._on_end(ServerError(status, 0, description, operation=f"pull from consumer {self.consumer}"))
                return
            # Leadership change, server shutdown, too many pulls, nobody responds: nothing is known of any pull.
            self._logger.info("stream %s: pulling again after %d %s", self._stream, status, description)
            self.pull_anew(pause=True)
            if status == 503:
                self.on_silent("nobody answers for it")

    def use_limits(self, config: dict[str, Any]) -> None:
        """Keep pulls within what the consumer's settings allow."""
        self.limits.read(config)
        if self._dispatcher is not None:
            self._dispatcher.set_max_pulls(self.limits.n_waiting)

    def _learns(self, number: int, description: str) -> bool:
        """Whether that pull was too large, and the next ones will not be."""
        is_news = self.limits.learn(description)
        if is_news:
            self._limited_from = self._next_pull
            self._logger.info("stream %s: pulls are made smaller: %s", self._stream, description)
        return is_news is True or (is_news is False and number < self._limited_from)

    def _is_refused_again(self, dispatcher: Dispatcher) -> bool:
        """Count a refusal that is for good. One alone proves nothing: whoever knows the inbox may publish there."""
        if dispatcher.seen != self._seen_at_refusal:
            self._seen_at_refusal, self._n_refused = dispatcher.seen, 0
        self._n_refused += 1
        return self._n_refused == N_REFUSALS

    def _or_end(self, call: Callable[..., object], *args: Any) -> None:
        """Make a call; an error that nobody expected ends the subscription: it would be there without pulls."""
        try:
            call(*args)
        except Exception as error:
            self._logger.critical("subscription to %s: pulling failed", self._stream, exc_info=error)
            self._on_end(error)

    def pull_anew(self, *, pause: bool) -> None:
        """Forget all pulls, and pull again, after a pause that grows while it keeps failing."""
        assert self._dispatcher is not None
        self._first_valid = self._next_pull
        self._dispatcher.revoke_all()
        if not pause:
            self._dispatcher.refill()
        elif self._retry is None:
            self._retry = self._loop.call_later(self._retry_s, self._pull_again)
            self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)

    def _pull_again(self) -> None:
        self._retry = None
        if self._dispatcher is not None and not self._stopped:
            self._seen_at = self._loop.time()
            self._or_end(self._dispatcher.refill)

    def forget_pulls(self) -> None:
        """Take no more notice of what is said of pulls sent so far."""
        self._first_valid = self._next_pull
        if self._dispatcher is not None:
            self._dispatcher.revoke_all()

    def _on_lost(self) -> None:
        self.forget_pulls()

    def _on_restored(self) -> None:
        self._seen_at = self._loop.time()
        self._retry_s = RETRY_FIRST_S
        self.on_restored()

    def tick(self) -> None:
        """Notice, a few times a second, when the server has fallen silent though it owes events or heartbeats."""
        if self._dispatcher is not None and not self._stopped:
            self._or_end(self._tick, self._dispatcher)

    def _tick(self, dispatcher: Dispatcher) -> None:
        now = self._loop.time()
        self._look_by_the_clock(dispatcher, now)
        if dispatcher.n_received != self._n_seen or not self._wire.is_up or dispatcher.credit == 0:
            self._n_seen = dispatcher.n_received
            self._seen_at = now
        elif now - self._seen_at > 2 * HEARTBEAT_S:
            self._logger.info("stream %s: no heartbeat, pulling again", self._stream)
            self._seen_at = now
            self.pull_anew(pause=False)
            self.on_silent("it is silent")

    def _look_by_the_clock(self, dispatcher: Dispatcher, now: float) -> None:
        """Look at the consumer every now and then, since nobody tells when it was edited; soon when handlers fail.

        An event that failed is delivered again only if `max_deliver` still allows it.
        """
        every_s = LOOK_SOON_S if dispatcher.n_failed != self._n_failed else LOOK_EVERY_S
        if self._wire.is_up and now - self._looked_at >= every_s:
            self._looked_at, self._n_failed = now, dispatcher.n_failed
            self.look("it is time to look")

    # --- what is the matter? -----------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether there is a connection."""
        return self._wire.is_up

    async def diagnose(self, seconds: float) -> str | None:
        """Return why nothing is delivered though events are pending; None when none are, or others get them."""
        try:
            before = await self._api.consumer_info(self._stream, self.consumer) if self.consumer else None
            if before is None:
                return "it has no consumer"
            if not before.get("num_pending"):
                return None
            if before.get("paused"):
                return "its consumer is paused"
            await asyncio.sleep(seconds)
            after = await self._api.consumer_info(self._stream, self.consumer)
        except EdaError as error:
            return f"asking the server: {error}"
        if after is None or not after.get("num_pending") or after.get("delivered") != before.get("delivered"):
            return None
        most, n = after["config"].get("max_ack_pending", -1), after.get("num_ack_pending", 0)
        if 0 < most <= n:
            return f"{n} events wait for their acknowledgement, with this member or others; the consumer allows {most}"
        return f"the server delivers nothing; it has {after.get('num_waiting', 0)} pulls waiting"

    # --- refusals ----------------------------------------------------------------------------------------------------

    def on_refused(self, kind: str, subject: str) -> None:
        """End when the server forbids what the subscription lives by."""
        if kind == "subscription" and subject.startswith(self._inbox):
            self._on_end(ServerError(403, 0, f"no permission to subscribe to {subject}"))
        elif kind == "publish" and subject == self.pull_subject:
            self._on_end(ServerError(403, 0, f"no permission to publish to {subject}"))


def _read_status(headers: bytes) -> tuple[str, dict[bytes, int]]:
    """Return (description in lower case, numbers by header in lower case) of a status header block."""
    first, _, rest = headers.partition(b"\r\n")
    description = first.partition(b" ")[2][4:].decode("ascii", "replace").lower()
    numbers: dict[bytes, int] = {}
    for line in rest.split(b"\r\n"):
        key, _, value = line.partition(b":")
        number = value.strip()
        if number.isdigit() and len(number) < 19:
            numbers[key.strip().lower()] = int(number)
    return description, numbers
