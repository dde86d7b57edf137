"""What shared and ordered sources have in common: pulls, their statuses, and silence.

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
from eda.log import with_fields
from eda.times import NS
from eda.transport.wire import Wire

__all__ = ["BARRIER_S", "PRIVATE_LIFE_S", "Source"]

BARRIER_S = 5.0  # how long the server may take to read everything that was written
PRIVATE_LIFE_S = 60.0  # how long the server keeps the consumer of a subscription that is not durable, without a member
EXPIRES_S = 30.0
HEARTBEAT_S = 5.0
CHECK_EVERY_S = 10.0
CHECK_SOON_S = 1.0
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 2.0
# Statuses of pulls after which another pull may succeed: a change of leader, too many pulls, no responders…
PASSING = frozenset({404, 408, 409, 429, 503})
N_REFUSALS = 3  # The subscription ends when the server has permanently refused this many pulls in a row.


class Source:
    """Pulls deliveries from one consumer for a dispatcher, and pulls again after any trouble with a pull.

    A subclass decides what to do about the consumer itself: `SharedSource` and `OrderedSource` define `on_gone`,
    `on_silent` and the like. `on_end(error)` is called once, when the subscription can't go on.
    """

    def __init__(
        self, wire: Wire, api: Api, logger: logging.Logger, stream: str, name: str, on_end: Callable[[Exception], None]
    ) -> None:
        self._wire = wire
        self._api = api
        self._logger = with_fields(logger, eda_stream=stream, eda_subscription=name)
        self._stream = stream
        self._name = name
        self._on_end = on_end
        self.consumer = ""
        self._inbox = wire.new_inbox()
        self.inbox: bytes = f"{self._inbox}.".encode()
        self._subscription: NatsSubscription | None = None
        self._dispatcher: Dispatcher | None = None
        self._loop = asyncio.get_running_loop()
        self._next_pull = 1
        self._first_valid = 1  # statuses of pulls before this one are ignored
        self.limits: PullLimits = PullLimits()
        self._limited_from = 1  # the first pull that keeps within the limits
        self.lease_s = inf  # how long the server waits for an acknowledgement
        self._checked_at = self._loop.time()  # when the consumer was checked last
        self._n_failed = 0  # the dispatcher's count of failures at that time
        self._n_received = 0  # the intake's count of frames at `_heard_at`
        self._heard_at = 0.0  # when the server sent something last, or nothing was due
        self._last_at_full = 0  # the last sequence received when a pull last ended as too small for the next event
        self._n_refused = 0  # how many pulls in a row the server has permanently refused
        self._last_at_refusal = 0  # the last sequence received when the server refused last
        self._retry: asyncio.TimerHandle | None = None
        self._retry_s = RETRY_FIRST_S
        self._stopped = False
        self.is_suspended = False  # shared only: the member's filter no longer covers the consumer's filter

    # --- what shared and ordered sources do differently --------------------------------------------------------------

    def on_gone(self, why: str) -> None:
        """React to a status that says that the consumer is gone."""
        raise NotImplementedError

    def on_silent(self, why: str) -> None:
        """React when nothing comes from the consumer although it should."""
        raise NotImplementedError

    def check_consumer(self, why: str) -> None:
        """Begin to check whether the consumer is there and has the settings that the subscription needs."""
        raise NotImplementedError

    def on_stripped(self, seq: int, reply: bytes) -> None:
        """Take a delivery whose body the consumer has left out."""
        raise NotImplementedError

    def on_restored(self) -> None:
        """Continue after a reconnect."""
        raise NotImplementedError

    def on_unwanted(self, seq: int, reply: bytes) -> None:
        """Take a delivery that the subscription's filter does not want. Only a shared source gets such calls."""
        raise NotImplementedError

    def on_heartbeat(self, last_consumer_seq: int) -> None:
        """Take a heartbeat, with the consumer sequence of the last delivery."""

    # --- beginning and end -------------------------------------------------------------------------------------------

    async def attach(self, dispatcher: Dispatcher) -> None:
        """Listen on the inbox for the dispatcher. This pulls nothing yet."""
        self._dispatcher = dispatcher
        self._subscription = await self._attached(dispatcher)
        self._wire.on_restored.append(self._on_restored)
        self._wire.on_lost.append(self._on_lost)
        self._heard_at = self._loop.time()

    async def _attached(self, dispatcher: Dispatcher) -> NatsSubscription:
        return await self._wire.attach(f"{self._inbox}.*", dispatcher.intake)

    async def stop(self, timeout_s: float) -> None:
        """Stop the deliveries. Return when no delivery is under way any more, or the server does not answer."""
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
            self._logger.log(
                self._wire.trouble_level,
                "closing subscription %s to %s: the server did not confirm that its deliveries have ended: %s",
                self._name, self._stream, error,
            )  # fmt: skip

    def release(self) -> None:
        """Release the inbox, so that no more deliveries reach the dispatcher."""
        if self._subscription is not None:
            self._wire.release(self._subscription)
            self._subscription = None

    # --- pulls -------------------------------------------------------------------------------------------------------

    @property
    def pull_subject(self) -> str:
        """Return the subject to which pulls are published."""
        return f"{self._api.prefix}.CONSUMER.MSG.NEXT.{self._stream}.{self.consumer}"

    def pull(self, n: int, n_bytes: int | None) -> None:
        """Ask for up to `n` more events of up to `n_bytes` together. With None, they may have any size."""
        if self._stopped or self._retry is not None or not self._wire.is_up or self._dispatcher is None:
            return
        if not self.consumer:
            return
        n_wanted = n
        n, expires_ns, n_bytes = self.limits.within(n, int(EXPIRES_S * NS), n_bytes)
        # The server refuses a heartbeat that is longer than half of `expires`.
        request = {"batch": n, "expires": expires_ns, "idle_heartbeat": min(int(HEARTBEAT_S * NS), expires_ns // 2)}
        if n_bytes is not None:
            request["max_bytes"] = n_bytes
        body = msgspec.json.encode(request)
        head = f"PUB {self.pull_subject} {self._inbox}.{self._next_pull} {len(body)}\r\n".encode()
        self._wire.out.request(head + body + b"\r\n")
        self._dispatcher.credit.grant(self._next_pull, n, n_bytes or 0)
        self._next_pull += 1
        if n < n_wanted:
            self._dispatcher.credit.refill()  # another pull asks for the rest

    def on_unreadable(self, error: Exception) -> None:
        """End the subscription, because this process lacks what decompresses a pack. The pack stays in the stream."""
        self._on_end(error)

    def on_status(self, status: int, tail: bytes, headers: bytes) -> None:
        """Take a status that the server sent about a pull."""
        if self._dispatcher is None or self._stopped:
            return
        if not tail.isdigit() or len(tail) > 18 or not self._first_valid <= int(tail) < self._next_pull:
            return
        self._run_or_end(self._take_status, self._dispatcher, status, tail, headers)

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
            dispatcher.credit.revoke(int(tail), -1 if n_left is None else n_left)
            if "exceeds maxbytes" not in description:
                dispatcher.credit.refill()
            elif dispatcher.intake.highest_seen != self._last_at_full:
                # This pull or an earlier one has brought something since. So there may be room again.
                self._last_at_full = dispatcher.intake.highest_seen
                dispatcher.credit.refill()
            elif dispatcher.n_held == 0:
                # Nothing else is held, and still the event is too large for a pull. So pull one event of any size.
                dispatcher.credit.revoke_all()
                self.pull(1, None)
        elif status == 409 and self._is_too_large(int(tail), description):
            dispatcher.credit.revoke(int(tail), -1)
            dispatcher.credit.refill()
        elif status == 409 and "consumer deleted" in description:
            self.on_gone("it was deleted")
        elif status == 409 and "push based" in description:
            self.on_gone("it was replaced by a push consumer")
        else:
            if 400 <= status < 500 and status not in PASSING and self._is_refused_again(dispatcher):
                self._on_end(ServerError(status, 0, description, operation=f"pull from consumer {self.consumer}"))
                return
            # A change of leader, a shutdown, too many pulls, no responders: the server may have forgotten all pulls.
            self._logger.debug(
                "subscription %s to %s: pulling again after %d %s", self._name, self._stream, status, description
            )
            self.pull_anew(pause=True)
            if status == 503:
                self.on_silent("no server answers for it")

    def use_limits(self, config: dict[str, Any]) -> None:
        """Keep pulls within the limits in the consumer's settings."""
        self.limits.read(config)
        if self._dispatcher is not None:
            self._dispatcher.credit.set_max_pulls(self.limits.n_waiting)

    def _is_too_large(self, number: int, description: str) -> bool:
        """Return whether the server refused the pull as too large. If so, make later pulls smaller."""
        is_news = self.limits.learn(description)
        if is_news:
            self._limited_from = self._next_pull
            self._logger.debug(
                "subscription %s to %s: later pulls ask for less, because the server refused one: %s",
                self._name, self._stream, description,
            )  # fmt: skip
        return is_news is True or (is_news is False and number < self._limited_from)

    def _is_refused_again(self, dispatcher: Dispatcher) -> bool:
        """Count a permanent refusal, and return whether there were too many.

        A single refusal proves nothing, because anybody who knows the inbox may publish a status there.
        """
        if dispatcher.intake.highest_seen != self._last_at_refusal:
            self._last_at_refusal, self._n_refused = dispatcher.intake.highest_seen, 0
        self._n_refused += 1
        return self._n_refused == N_REFUSALS

    def _run_or_end(self, call: Callable[..., object], *args: Any) -> None:
        """Make a call. An unexpected error ends the subscription, which would otherwise stay open without pulls."""
        try:
            call(*args)
        except Exception as error:
            self._logger.critical("subscription %s to %s: pulling failed", self._name, self._stream, exc_info=error)
            self._on_end(error)

    def pull_anew(self, *, pause: bool) -> None:
        """Forget all pulls, and pull again. With `pause`, wait first: longer each time, until a pull succeeds."""
        assert self._dispatcher is not None
        self._first_valid = self._next_pull
        self._dispatcher.credit.revoke_all()
        if not pause:
            self._dispatcher.credit.refill()
        elif self._retry is None:
            self._retry = self._loop.call_later(self._retry_s, self._pull_again)
            self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)

    def _pull_again(self) -> None:
        self._retry = None
        if self._dispatcher is not None and not self._stopped:
            self._heard_at = self._loop.time()
            self._run_or_end(self._dispatcher.credit.refill)

    def forget_pulls(self) -> None:
        """Ignore the statuses of all pulls sent so far, and take back their credit."""
        self._first_valid = self._next_pull
        if self._dispatcher is not None:
            self._dispatcher.credit.revoke_all()

    def _on_lost(self) -> None:
        self.forget_pulls()

    def _on_restored(self) -> None:
        self._heard_at = self._loop.time()
        self._retry_s = RETRY_FIRST_S
        self.on_restored()

    def tick(self) -> None:
        """Check for silence: the server owes events or heartbeats, and sends nothing. Called a few times a second."""
        if self._dispatcher is not None and not self._stopped:
            self._run_or_end(self._tick, self._dispatcher)

    def _tick(self, dispatcher: Dispatcher) -> None:
        now = self._loop.time()
        self._check_consumer_when_due(dispatcher, now)
        if (
            dispatcher.intake.n_received != self._n_received
            or not self._wire.is_up
            or dispatcher.credit.n_messages == 0
        ):
            self._n_received = dispatcher.intake.n_received
            self._heard_at = now
        elif now - self._heard_at > 2 * HEARTBEAT_S:
            self._logger.debug("subscription %s to %s: no heartbeat came; pulling again", self._name, self._stream)
            self._heard_at = now
            self.pull_anew(pause=False)
            self.on_silent("it sends nothing")

    def _check_consumer_when_due(self, dispatcher: Dispatcher, now: float) -> None:
        """Check the consumer every 10 s, because the server tells nobody when a consumer was edited.

        After a failure, check it within a second: the server delivers an event again only if `max_deliver` allows it.
        """
        every_s = CHECK_SOON_S if dispatcher.outcomes.n_failed != self._n_failed else CHECK_EVERY_S
        if self._wire.is_up and now - self._checked_at >= every_s:
            self._checked_at, self._n_failed = now, dispatcher.outcomes.n_failed
            self.check_consumer("it is time to check it")

    # --- diagnosis ---------------------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Return whether there is a connection."""
        return self._wire.is_up

    async def diagnose(self, seconds: float) -> str | None:
        """Return why the server delivers nothing although events are pending. This takes `seconds`.

        Return None if no events are pending, or if other members get them.
        """
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
            return f"asking the server about its consumer failed: {error}"
        if after is None or not after.get("num_pending") or after.get("delivered") != before.get("delivered"):
            return None
        most, n = after["config"].get("max_ack_pending", -1), after.get("num_ack_pending", 0)
        if 0 < most <= n:
            return f"{n} events wait for their acknowledgement by this or other members; the consumer allows {most}"
        return f"the server delivers nothing; it has {after.get('num_waiting', 0)} pulls waiting"

    # --- refusals ----------------------------------------------------------------------------------------------------

    def on_refused(self, kind: str, subject: str) -> None:
        """End the subscription if the server forbids its inbox or its pulls."""
        if kind == "subscription" and subject.startswith(self._inbox):
            self._on_end(ServerError(403, 0, f"no permission to subscribe to {subject}"))
        elif kind == "publish" and subject == self.pull_subject:
            self._on_end(ServerError(403, 0, f"no permission to publish to {subject}"))


def _read_status(headers: bytes) -> tuple[str, dict[bytes, int]]:
    """Return the description of a status, and the numbers in its headers by name. All names are in lower case."""
    first, _, rest = headers.partition(b"\r\n")
    description = first.partition(b" ")[2][4:].decode("ascii", "replace").lower()
    numbers: dict[bytes, int] = {}
    for line in rest.split(b"\r\n"):
        key, _, value = line.partition(b":")
        number = value.strip()
        if number.isdigit() and len(number) < 19:
            numbers[key.strip().lower()] = int(number)
    return description, numbers
