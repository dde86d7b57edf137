"""The shared source: one durable pull consumer, explicit acknowledgements, any number of members."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

from nats.errors import Error as NatsError

from eda._nuid import next_nuid
from eda.errors import Closed, ConsumerDeleted, EdaError, ServerError, StreamNotFound, Timeout
from eda.handling._dispatch import Dispatcher
from eda.jetstream.api import Api
from eda.jetstream.grace_period import GracePeriod
from eda.jetstream.streams import StreamInfo
from eda.jetstream.subjects import covers, shown_filter
from eda.options import SubscriptionOptions
from eda.subscribing.shared_consumer import SharedConsumer
from eda.subscribing.source import BARRIER_S, Pulls
from eda.subscribing.unwanted import LOOK_PAUSE_S, Unwanted, kept_filter
from eda.transport.wire import Wire

__all__ = ["SharedSource"]

SAME_S = 0.02  # between two creations of a consumer there is at least a round trip, or two


class SharedSource(Pulls):
    """Keeps a dispatcher supplied from a consumer that any number of members may share."""

    def __init__(
        self,
        wire: Wire,
        api: Api,
        logger: logging.Logger,
        stream: str,
        options: SubscriptionOptions,
        durable_name: str | None,
        on_end: Callable[[Exception], None],
    ) -> None:
        super().__init__(wire, api, logger, stream, on_end)
        self.consumer = durable_name or options.name or f"eda-{next_nuid()}"
        self._durable = durable_name
        self._kept = SharedConsumer(api, logger, stream, self.consumer, options, is_durable=durable_name is not None)
        self._filter = self._kept.filter
        self._unwanted = Unwanted(logger, self._filter, self._ask, self._on_narrow, self._on_failed)
        self._standing_by: asyncio.Task[None] | None = None
        self._stripped: dict[int, bytes] = {}  # deliveries without a body: what acknowledges them, by sequence
        self._is_paused = False
        self._created: str | None = None  # tells the consumer from a later one of the same name
        self._floor = (0, 0, 0)  # stream and consumer sequence delivered before, events pending
        self._kept_at = 0.0  # when the consumer was asked for something last, or is about to be
        self._is_sure = True  # False after a reconnect, until it was looked at
        self._pulls_anew = False  # the next look is followed by new pulls
        self._checking: asyncio.Task[None] | None = None

    # --- the consumer ------------------------------------------------------------------------------------------------

    async def open(self, stream: StreamInfo) -> None:
        """Create the consumer or attach to the kept one. Raises ConfigError naming what contradicts the options."""
        info = await self._kept.open(stream)
        delivered = info.get("delivered") or {}
        self._created = info.get("created")
        self._floor = (delivered.get("stream_seq", 0), delivered.get("consumer_seq", 0), info.get("num_pending", 0))
        self._note(info)

    def _note(self, info: dict[str, Any]) -> None:
        """Take what the consumer's settings are now."""
        self.use_limits(info["config"])
        self.lease_s = self._kept.lease_s
        is_paused = bool(info.get("paused"))
        if is_paused and not self._is_paused:
            self._logger.warning(
                "subscription %s to %s: somebody paused its consumer until %s; it gets no events before",
                self.consumer, self._stream, info["config"].get("pause_until"),
            )  # fmt: skip
        self._is_paused = is_paused

    async def start(self, dispatcher: Dispatcher) -> None:
        """Begin to supply the dispatcher."""
        dispatcher.set_floor(*self._floor)
        if self._kept.server_filter:
            dispatcher.doubt_unwanted()
        await self.attach(dispatcher)
        dispatcher.set_max_pulls(self.limits.n_waiting)
        dispatcher.refill()

    async def stop(self, timeout_s: float) -> None:
        """Stop the deliveries; returns when none is under way any more, or nobody can tell."""
        self._unwanted.stop()
        for task in (self._checking, self._standing_by):
            if task is not None:
                task.cancel()
        await super().stop(timeout_s)
        if self._dispatcher is not None:
            self._unwanted.give_back(self._dispatcher)
            self._give_back_stripped(list(self._stripped))

    async def confirm(self, timeout_s: float) -> bool:
        """Have the server say that it has taken every acknowledgement sent; returns whether it did."""
        if self._dispatcher is None or self._wire.is_closed:
            return False
        subject = self._dispatcher.last_acknowledged()
        if subject is None:
            return True
        self._wire.out.flush()
        try:
            # Answers to one consumer are taken in order. For an event that is acknowledged already, "in progress" does
            # nothing but answer.
            await self._wire.request(subject.decode(), b"+WPI", timeout=max(timeout_s, 0.01))
        except NatsError as error:
            self._logger.warning(
                "subscription %s to %s: the last acknowledgements are not confirmed (%s); their events may come again",
                self.consumer, self._stream, error,
            )  # fmt: skip
            return False
        return True

    async def forget(self) -> None:
        """Delete the consumer, and with it the position."""
        await self._api.delete_consumer(self._stream, self.consumer)

    # --- a filter that others changed --------------------------------------------------------------------------------

    def on_unwanted(self, seq: int, reply: bytes) -> None:
        """Acknowledge a delivery, unless it is another member's by now."""
        if self._dispatcher is not None:
            self._unwanted.add(self._dispatcher, seq, reply)

    async def _ask(self) -> dict[str, Any] | None:
        return await self._api.consumer_info(self._stream, self.consumer)

    def _on_narrow(self, theirs: list[str]) -> None:
        """Stand by: the consumer's events are for members that want them all."""
        if self.stands_by or self._stopped:
            return
        self.stands_by = True
        self._logger.warning(
            "subscription %s to %s stands by: another member changed the consumer's filter to %s, and this member "
            "handles %s only; it gives back what it holds",
            self.consumer, self._stream, shown_filter(theirs), shown_filter(self._filter),
        )  # fmt: skip
        self._standing_by = self._loop.create_task(self._stand_by())

    async def _stand_by(self) -> None:
        """End the deliveries, and give back what no handler has begun."""
        if self._subscription is not None:
            await self._wire.detach(self._subscription)  # with it, the server forgets the pulls
            with suppress(Timeout, Closed):
                await self._wire.barrier(BARRIER_S)
        self.forget_pulls()
        if self._dispatcher is not None:
            self._dispatcher.give_back()

    async def _come_back(self) -> None:
        """Get events again: the consumer's filter is one that this member covers."""
        if self._standing_by is not None:
            await asyncio.wait({self._standing_by})
        dispatcher, before = self._dispatcher, self._subscription
        if dispatcher is None or before is None or self._stopped:
            return
        self._subscription = await self._attached(dispatcher)
        self._wire.release(before)
        self.stands_by, self._pulls_anew = False, True
        self._logger.warning(
            "subscription %s to %s no longer stands by: it handles all of the consumer's filter again",
            self.consumer, self._stream,
        )  # fmt: skip

    # --- is it still there? ------------------------------------------------------------------------------------------

    def on_gone(self, why: str) -> None:
        """End, unless another look finds the consumer."""
        self.on_silent(why)

    def on_silent(self, why: str) -> None:
        """See whether the consumer is still there, and pull again."""
        self._pulls_anew = True
        self.look(why)

    def look(self, why: str) -> None:
        """See, once at a time, whether the consumer is there and as it has to be."""
        if not self._stopped and (self._checking is None or self._checking.done()):
            self._checking = self._loop.create_task(self._look_or_end(why))

    def on_stripped(self, seq: int, reply: bytes) -> None:
        """Keep a delivery whose body was left out from being taken for an event, and see who left it out."""
        self._stripped[seq] = reply
        self._is_sure = False  # pull nothing more of the kind
        self.look("a delivery came without its body")

    def on_restored(self) -> None:
        """Pull again, since the server has forgotten the pulls of the old connection; but from no other consumer.

        One that was made meanwhile, under the same name, would have its events acknowledged in place of ours.
        """
        self._is_sure = False
        self.on_silent("the connection was lost")

    def pull(self, n: int, n_bytes: int | None) -> None:
        """Ask for more, of a consumer that is known to be the one."""
        if self._is_sure and not self.stands_by:
            super().pull(n, n_bytes)

    def tick(self) -> None:
        """Keep a consumer that the server would remove, while we ask it for nothing: paused, or the circuit is open."""
        super().tick()
        now = self._loop.time()
        if self._dispatcher is None or self._dispatcher.credit or not self._wire.is_up:
            self._kept_at = now
        elif self._durable is None and now - self._kept_at > self._kept.life_s / 4 and not self._stopped:
            self._kept_at = now
            # No event fits into a byte, and number 0 is that of no pull of ours.
            body = b'{"batch":1,"expires":1000000000,"max_bytes":1}'
            self._wire.out.request(f"PUB {self.pull_subject} {self._inbox}.0 {len(body)}\r\n".encode() + body + b"\r\n")

    async def _look_or_end(self, why: str) -> None:
        """Look at the consumer; whatever fails for good ends the subscription."""
        try:
            await self._look(why)
        except Closed:
            return
        except Exception as error:
            self._on_failed(error)

    def _on_failed(self, error: Exception) -> None:
        """End because of an error while looking at the consumer."""
        if not isinstance(error, EdaError):
            self._logger.critical(
                "consumer %s of %s: looking at it failed", self.consumer, self._stream, exc_info=error
            )
        self._on_end(error)

    async def _look(self, why: str) -> None:
        """End the subscription if its stream or consumer is gone, else see that it is as it should be, and pull again.

        Raises what is refused for good.
        """
        grace = GracePeriod()
        was_missed = False
        while True:
            stripped = dict(self._stripped)  # before asking: the answer says nothing of later ones
            try:
                info = await self._api.consumer_info(self._stream, self.consumer)
                if info is None and not was_missed and not self._pulls_anew:
                    # Nobody has said that it was deleted: a cluster that restarts may not know it yet.
                    was_missed = True
                    await asyncio.sleep(LOOK_PAUSE_S)
                    continue
                if info is None or not self._is_same(info):
                    reason = "" if info is None else "somebody made another one of its name"
                    raise ConsumerDeleted(self._stream, self.consumer, reason)
                if info["config"].get("deliver_subject"):
                    raise ConsumerDeleted(self._stream, self.consumer, "it was replaced by a push consumer")
                if not covers(self._filter, kept_filter(info["config"])):
                    self._give_back_stripped(list(self._stripped))
                    self._on_narrow(kept_filter(info["config"]))
                    return
                was_stripping = bool(info["config"].get("headers_only"))
                info["config"] = await self._kept.heal(await self._kept.widen(info["config"]))
            except (StreamNotFound, ConsumerDeleted, Closed):
                raise
            except EdaError as error:
                if not grace.allows(error):
                    raise
                self._logger.info(
                    "consumer %s of %s: %s, and asking failed: %s", self.consumer, self._stream, why, error
                )
                await asyncio.sleep(LOOK_PAUSE_S)
                continue
            self._note(info)
            if self.stands_by:
                await self._come_back()
            if stripped and self._dispatcher is not None:
                # A consumer that leaves no body out has delivered them as they are, or was healed by another member:
                # the stream knows. They come again, and then they are taken for what they are.
                empty = [] if was_stripping else [seq for seq in sorted(stripped) if await self._is_stored_empty(seq)]
                self._dispatcher.believe_empty(empty)
                self._give_back_stripped(list(stripped))
            if not self._stripped:
                break
        if self._dispatcher is not None and not self._stopped and (self._pulls_anew or not self._is_sure):
            pauses = self._pulls_anew and self._is_sure
            self._is_sure, self._pulls_anew = True, False
            self.pull_anew(pause=pauses)

    async def _is_stored_empty(self, seq: int) -> bool:
        """Whether the stream has that message without a body. Who may not read the stream believes the consumer."""
        try:
            return not (await self._api.message(self._stream, {"seq": seq})).data
        except ServerError as error:
            return not error.retryable
        except Timeout:
            return False

    def _give_back_stripped(self, sequences: list[int]) -> None:
        """Have these deliveries made again, in order."""
        for seq in sorted(sequences):
            reply = self._stripped.pop(seq, None)
            if reply is not None and self._dispatcher is not None:
                self._dispatcher.give_back_delivery(reply)

    def _is_same(self, info: dict[str, Any]) -> bool:
        """Whether this is the consumer that we opened, rather than a later one of its name.

        A server that was killed restores it with a time that may differ by less than a millisecond (seen with 2.10.26),
        and one that is not durable with the time of the restart (seen with all): of that nobody can tell.
        """
        if self._durable is None:
            return True
        try:
            apart = datetime.fromisoformat(info["created"]) - datetime.fromisoformat(self._created or "")
        except (KeyError, TypeError, ValueError):
            return info.get("created") == self._created
        return abs(apart.total_seconds()) < SAME_S

    def on_refused(self, kind: str, subject: str) -> None:
        """End when pulls, deliveries or acknowledgements are forbidden."""
        super().on_refused(kind, subject)
        # Events that can't be acknowledged would come for ever.
        if kind == "publish" and subject.startswith("$JS.ACK.") and f".{self._stream}.{self.consumer}." in subject:
            self._on_end(ServerError(403, 0, f"no permission to publish to {subject}"))
