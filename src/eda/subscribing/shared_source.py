"""The source of a shared subscription: one pull consumer, explicit acknowledgements, any number of members."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from nats.errors import Error as NatsError

from eda.errors import Closed, ConsumerDeleted, EdaError, ServerError, StreamNotFound, Timeout
from eda.handling._dispatch import Dispatcher
from eda.jetstream.grace_period import GracePeriod
from eda.jetstream.stream_info import StreamInfo
from eda.jetstream.subjects import covers, shown_filter
from eda.subscribing.filters import shared_filter
from eda.subscribing.moved_position import MovedPositions, is_same_consumer
from eda.subscribing.services import Services
from eda.subscribing.shared_consumer import SharedConsumer
from eda.subscribing.source import BARRIER_S, Source
from eda.subscribing.spec import SubscriptionSpec
from eda.subscribing.unwanted import CHECK_PAUSE_S, UnwantedDeliveries

__all__ = ["SharedSource"]


class SharedSource(Source):
    """Pulls deliveries from a consumer that any number of members may share."""

    def __init__(self, services: Services, spec: SubscriptionSpec, on_end: Callable[[Exception], None]) -> None:
        super().__init__(services.wire, services.api, services.logger, spec.stream, spec.name, on_end)
        self.consumer: str = spec.name
        self._is_durable = spec.is_durable
        self._kept = SharedConsumer(services.api, services.logger, spec)
        self._filter = self._kept.filter
        self._unwanted = UnwantedDeliveries(
            self._logger, self._filter, self._consumer_info, self._on_narrow, self._on_failed
        )
        self._suspending: asyncio.Task[None] | None = None
        self._stripped: dict[int, bytes] = {}  # deliveries without a body: their acknowledgement subjects by sequence
        self._is_paused = False
        self._created: str | None = None  # distinguishes the consumer from a later one of the same name
        # The consumer's state when we attached: stream and consumer sequence of the last delivery, events pending.
        self._floor = (0, 0, 0)
        self._kept_at = 0.0  # when this member last had a pull open
        self._is_sure = True  # False after a reconnect, until a check has found that the consumer is the same
        self._pulls_anew = False  # pull again after the next check
        self._checking: asyncio.Task[None] | None = None

    # --- the consumer ------------------------------------------------------------------------------------------------

    async def open(self, stream: StreamInfo, moved: MovedPositions | None = None) -> None:
        """Create the consumer, or attach to it if it exists. A new one starts at the moved position, if there is one.

        Raises ConfigError, which names the settings that contradict the options.
        """
        info = await self._kept.open(stream, moved)
        delivered = info.get("delivered") or {}
        self._created = info.get("created")
        self._floor = (delivered.get("stream_seq", 0), delivered.get("consumer_seq", 0), info.get("num_pending", 0))
        self._adapt_to(info)

    def _adapt_to(self, info: dict[str, Any]) -> None:
        """Adapt to the consumer's current settings."""
        self.use_limits(info["config"])
        self.lease_s: float = self._kept.lease_s
        is_paused = bool(info.get("paused"))
        if is_paused and not self._is_paused:
            self._logger.warning(
                "subscription %s to %s: somebody paused its consumer until %s; the server delivers no events before",
                self.consumer, self._stream, info["config"].get("pause_until"),
            )  # fmt: skip
        self._is_paused = is_paused

    async def start(self, dispatcher: Dispatcher) -> None:
        """Begin to pull for the dispatcher."""
        dispatcher.intake.set_floor(*self._floor)
        if self._kept.server_filter:
            dispatcher.intake.ask_for_unwanted()
        await self.attach(dispatcher)
        dispatcher.credit.set_max_pulls(self.limits.n_waiting)
        dispatcher.credit.refill()

    async def stop(self, timeout_s: float) -> None:
        """Stop the deliveries, and acknowledge or give back those that were set aside.

        Return when no delivery is under way any more, or the server does not answer.
        """
        until = self._loop.time() + timeout_s
        for task in (self._checking, self._suspending):
            if task is not None:
                task.cancel()
        await super().stop(timeout_s)
        if self._dispatcher is not None:
            await self._unwanted.finish(self._dispatcher, until - self._loop.time() if self._wire.is_up else 0)
            self._give_back_stripped(list(self._stripped))

    async def confirm(self, timeout_s: float) -> bool:
        """Return whether the server confirms in time that it has taken every acknowledgement sent."""
        if self._dispatcher is None or self._wire.is_closed:
            return False
        subject = self._dispatcher.outcomes.last_acknowledged()
        if subject is None:
            return True
        self._wire.out.flush()
        try:
            # The server takes a consumer's acknowledgements in order, so its reply confirms all earlier ones. For an
            # event that is acknowledged already, "+WPI" (work in progress) changes nothing.
            await self._wire.request(subject.decode(), b"+WPI", timeout=max(timeout_s, 0.01))
        except NatsError as error:
            self._logger.warning(
                "subscription %s to %s: the server did not confirm the last acknowledgements (%s); it may deliver "
                "their events again",
                self.consumer, self._stream, error,
            )  # fmt: skip
            return False
        return True

    async def forget(self) -> None:
        """Delete the consumer, and with it the position."""
        await self._api.delete_consumer(self._stream, self.consumer)

    # --- when other members change the filter ------------------------------------------------------------------------

    def on_unwanted(self, seq: int, reply: bytes) -> None:
        """Acknowledge the delivery, or give it back if other members want it by now."""
        if self._dispatcher is not None:
            self._unwanted.add(self._dispatcher, seq, reply)

    async def _consumer_info(self) -> dict[str, Any] | None:
        return await self._api.consumer_info(self._stream, self.consumer)

    def _on_narrow(self, theirs: list[str]) -> None:
        """Suspend this member, because the consumer delivers events that only other members want."""
        if self.is_suspended or self._stopped:
            return
        self.is_suspended: bool = True
        self._logger.warning(
            "subscription %s to %s is suspended: another member changed the consumer's filter to %s, but this member "
            "handles only %s; it gives back the events that no handler has begun",
            self.consumer, self._stream, shown_filter(theirs), shown_filter(self._filter),
        )  # fmt: skip
        self._suspending = self._loop.create_task(self._suspend())

    async def _suspend(self) -> None:
        """Stop the deliveries, and give back the events that no handler has begun."""
        if self._subscription is not None:
            await self._wire.detach(self._subscription)  # the server drops our pulls with the subscription
            with suppress(Timeout, Closed):
                await self._wire.barrier(BARRIER_S)
        self.forget_pulls()
        if self._dispatcher is not None:
            self._dispatcher.outcomes.give_back_waiting()

    async def _end_suspension(self) -> None:
        """Get events again, because this member's filter covers the consumer's filter again."""
        if self._suspending is not None:
            await asyncio.wait({self._suspending})
        dispatcher, before = self._dispatcher, self._subscription
        if dispatcher is None or before is None or self._stopped:
            return
        self._subscription = await self._attached(dispatcher)
        self._wire.release(before)
        self.is_suspended, self._pulls_anew = False, True
        self._logger.warning(
            "subscription %s to %s is no longer suspended: its filter covers the consumer's filter again",
            self.consumer, self._stream,
        )  # fmt: skip

    # --- checking the consumer ---------------------------------------------------------------------------------------

    def on_gone(self, why: str) -> None:
        """Check whether the consumer is really gone. If it is, the subscription ends."""
        self.on_silent(why)

    def on_silent(self, why: str) -> None:
        """Check the consumer, then pull again."""
        self._pulls_anew = True
        self.check_consumer(why)

    def check_consumer(self, why: str) -> None:
        """Begin to check the consumer, unless a check is under way. `why` is for the log."""
        if not self._stopped and (self._checking is None or self._checking.done()):
            self._checking = self._loop.create_task(self._check_or_end(why))

    def on_stripped(self, seq: int, reply: bytes) -> None:
        """Keep the delivery aside, and check whether the consumer or the publisher has left the body out."""
        self._stripped[seq] = reply
        self._is_sure = False  # pull no more such deliveries
        self.check_consumer("a delivery came without its body")

    def on_restored(self) -> None:
        """Check the consumer, then pull again: the server has forgotten the pulls of the old connection.

        Somebody may have replaced the consumer by another one of the same name. Then our acknowledgements would
        acknowledge its events instead. So nothing is pulled before the check.
        """
        self._is_sure = False
        self.on_silent("the connection was lost")

    def pull(self, n: int, n_bytes: int | None) -> None:
        """Ask for more, if it is certain that the consumer was not replaced, and the member is not suspended."""
        if self._is_sure and not self.is_suspended:
            super().pull(n, n_bytes)

    def tick(self) -> None:
        """Check for silence, and keep a consumer alive that is not durable.

        While the subscription is paused or its circuit is open, it pulls nothing, and the server would remove the
        consumer.
        """
        super().tick()
        now = self._loop.time()
        if self._dispatcher is None or self._dispatcher.credit.n_messages or not self._wire.is_up:
            self._kept_at = now
        elif not self._is_durable and now - self._kept_at > self._kept.life_s / 4 and not self._stopped:
            self._kept_at = now
            # No event fits into one byte. No other pull has the number 0, so the status of this pull is ignored.
            body = b'{"batch":1,"expires":1000000000,"max_bytes":1}'
            self._wire.out.request(f"PUB {self.pull_subject} {self._inbox}.0 {len(body)}\r\n".encode() + body + b"\r\n")

    async def _check_or_end(self, why: str) -> None:
        """Check the consumer. A final error ends the subscription."""
        try:
            await self._check(why)
        except Closed:
            return
        except Exception as error:
            self._on_failed(error)

    def _on_failed(self, error: Exception) -> None:
        """End the subscription because of an error in a check of the consumer."""
        if not isinstance(error, EdaError):
            self._logger.critical(
                "checking consumer %s of stream %s failed", self.consumer, self._stream, exc_info=error
            )
        self._on_end(error)

    async def _check(self, why: str) -> None:
        """Check the consumer, change back settings that harm the members, and pull again if need be.

        Raises StreamNotFound or ConsumerDeleted if it is gone; ConfigError for a setting that can't be changed back;
        ServerError for a permanent refusal; Closed.
        """
        grace = GracePeriod()
        was_missed = False
        while True:
            stripped = dict(self._stripped)  # the server's answer says nothing about later deliveries
            try:
                info = await self._api.consumer_info(self._stream, self.consumer)
                if info is None and not was_missed and not self._pulls_anew:
                    # No status said that it was deleted. A cluster that restarts may not know the consumer yet.
                    was_missed = True
                    await asyncio.sleep(CHECK_PAUSE_S)
                    continue
                if info is None or not self._is_same(info):
                    reason = "" if info is None else "somebody replaced it by another consumer of its name"
                    raise ConsumerDeleted(self._stream, self.consumer, reason)
                if info["config"].get("deliver_subject"):
                    raise ConsumerDeleted(self._stream, self.consumer, "it was replaced by a push consumer")
                if not covers(self._filter, shared_filter(info["config"])):
                    self._give_back_stripped(list(self._stripped))
                    self._on_narrow(shared_filter(info["config"]))
                    return
                was_stripping = bool(info["config"].get("headers_only"))
                info["config"] = await self._kept.heal(await self._kept.widen(info["config"]))
            except (StreamNotFound, ConsumerDeleted, Closed):
                raise
            except EdaError as error:
                if not grace.allows(error):
                    raise
                self._logger.debug(
                    "checking consumer %s of stream %s (because %s) failed, trying again: %s",
                    self.consumer, self._stream, why, error,
                )  # fmt: skip
                await asyncio.sleep(CHECK_PAUSE_S)
                continue
            self._adapt_to(info)
            if self.is_suspended:
                await self._end_suspension()
            if stripped and self._dispatcher is not None:
                # If the consumer left bodies out, no message is known to be empty. If it did not (or was repaired by
                # another member meanwhile), the stream tells which messages are empty. All of them are given back, and
                # when the server delivers them again, the intake accepts the empty ones.
                empty = [] if was_stripping else [seq for seq in sorted(stripped) if await self._is_stored_empty(seq)]
                self._dispatcher.intake.accept_empty(empty)
                self._give_back_stripped(list(stripped))
            if not self._stripped:
                break
        if self._dispatcher is not None and not self._stopped and (self._pulls_anew or not self._is_sure):
            pauses = self._pulls_anew and self._is_sure
            self._is_sure, self._pulls_anew = True, False
            self.pull_anew(pause=pauses)

    async def _is_stored_empty(self, seq: int) -> bool:
        """Return whether the stored message has no body. If we may not read the stream, return True."""
        try:
            return not (await self._api.message(self._stream, {"seq": seq})).data
        except ServerError as error:
            return not error.retryable
        except Timeout:
            return False

    def _give_back_stripped(self, sequences: list[int]) -> None:
        """Give these deliveries back, in order."""
        for seq in sorted(sequences):
            reply = self._stripped.pop(seq, None)
            if reply is not None and self._dispatcher is not None:
                self._dispatcher.intake.give_back(seq, reply)

    def _is_same(self, info: dict[str, Any]) -> bool:
        """Return whether this is the consumer that we opened, and not a newer consumer of the same name.

        A consumer that is not durable gets the time of the server's restart as its creation time (seen with all
        versions), so it always counts as the same.
        """
        return not self._is_durable or is_same_consumer(info.get("created"), self._created)

    def on_refused(self, kind: str, subject: str) -> None:
        """End the subscription if the server forbids its inbox, its pulls or its acknowledgements."""
        super().on_refused(kind, subject)
        # Without acknowledgements the server would deliver the same events again and again.
        if kind == "publish" and subject.startswith("$JS.ACK.") and f".{self._stream}.{self.consumer}." in subject:
            self._on_end(ServerError(403, 0, f"no permission to publish to {subject}"))
