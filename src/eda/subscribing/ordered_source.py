"""The source of an ordered subscription: throw-away consumers, called readers, that ask for no acknowledgements.

If a reader's consumer sequences have no gap, no event is missing. When there is a gap, a reconnect, silence or a lost
reader, the source makes a new reader, which begins after the last event that was received.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from eda._nuid import next_nuid
from eda.cursors.position import (
    BEFORE_FIRST_NS,
    Position,
    position_of,
    sequence_at,
    surviving_position,
    warn_of_far_start,
)
from eda.errors import Closed, ConfigError, ConsumerDeleted, EdaError, ServerError, StreamNotFound
from eda.handling._dispatch import Dispatcher
from eda.jetstream.consumer_settings import changed_settings, reader_settings
from eda.jetstream.grace_period import GracePeriod
from eda.jetstream.labels import labels
from eda.jetstream.stream_info import StreamInfo
from eda.jetstream.subjects import filter_subjects
from eda.subscribing.bare_subject import BareSubject
from eda.subscribing.filters import server_filter
from eda.subscribing.services import Services
from eda.subscribing.shared_or_ordered import check_retention
from eda.subscribing.source import Source
from eda.subscribing.spec import SubscriptionSpec
from eda.times import since_epoch_ns

__all__ = ["OrderedSource"]

RENEW_FIRST_S = 0.05
RENEW_MAX_S = 2.0

FAULT = "subscription %s to %s: making a reader failed"
NO_READER = "subscription %s to %s: making a reader failed, trying again: %s"


class OrderedSource(Source):
    """Pulls every event of a stream in order for a dispatcher, from the dispatcher's position onwards.

    `on_rewound(position)` is called when the stream has lost its end, because a server died before it had synced its
    files. Everything after that position is read again.
    """

    def __init__(
        self,
        services: Services,
        spec: SubscriptionSpec,
        on_end: Callable[[Exception], None],
        on_rewound: Callable[[Position], None],
    ) -> None:
        super().__init__(services.wire, services.api, services.logger, spec.stream, spec.name, on_end)
        self._streams = services.streams
        self._options = options = spec.options
        self._part = spec.part
        self.filter: list[str] = filter_subjects(spec.stream, options.types, options.aggregate)
        self.server_filter: list[str] = []  # set by `use_stream`, and each time the stream is checked
        self._was_packed = False  # whether the stream had the mark of packs at some time
        self._bare = BareSubject(services.wire, services.api, spec.stream, self._on_bare_needed, always=spec.asks_bare)
        # After this sequence, no reader has asked for the stream's own subject. None: all readers did.
        self._not_asked_since: int | None = None
        self._on_rewound = on_rewound
        # Called when a new reader finds no event to read, and every event received is done.
        self.on_nothing_pending: Callable[[], None] = lambda: None
        # Called when the pack in whose middle the position was is not there, so that the position is before it.
        self.on_part_gone: Callable[[], None] = lambda: None
        self.created: datetime | None = None  # when the stream was created, as of the subscription's opening
        # The sequence to start at, by the options.
        self.start: int = options.start if isinstance(options.start, int) else 0
        self._is_start_logged = False
        self._reading = False
        self._n_wanted = 0  # grows with each request for a reader, so that making an older one ends early
        self._renewing: asyncio.Task[None] | None = None
        self._made: dict[str, Any] = {}  # the settings with which the reader was made
        self._checking: asyncio.Task[None] | None = None
        self._may_check = True  # False: the server does not let us ask for our consumers

    # --- where to begin ----------------------------------------------------------------------------------------------

    def use_stream(self, info: StreamInfo) -> None:
        """Note which stream the subscription reads. Raises ConfigError if the stream allows no ordered subscription."""
        self.created = info.created
        self._adapt_to(info)

    def _adapt_to(self, info: StreamInfo) -> None:
        """Adapt to the stream's current settings. Raises ConfigError if they allow no ordered subscription."""
        check_retention(info, self._options, filters_reliably=self._api.filters_reliably)
        self._was_packed |= info.options.packed
        self.server_filter = server_filter(
            info, self.filter, filters_reliably=self._api.filters_reliably, was_packed=self._was_packed
        )

    async def first_position(self) -> Position:
        """Return the position before the first event that the options ask for. Raises StreamNotFound, ServerError."""
        info = await self._streams.info(self._stream)
        options = self._options
        if options.backfill:
            return Position(info.first_sequence - 1, BEFORE_FIRST_NS) if info.first_sequence > 1 else Position(0)
        if options.start is None:
            return Position(info.last_sequence, info.last_time_ns)
        start = options.start
        if isinstance(start, datetime):
            start = await sequence_at(self._api, self._stream, since_epoch_ns(start), info)
        return Position(*(await position_of(self._api, self._stream, start - 1))[:2], *self._part)

    def _config(self, name: str) -> dict[str, Any]:
        what = f"reader of subscription {self._name!r} of stream {self._stream!r}"
        config = reader_settings(name) | labels("reader", client=self._api.client, what=what, subscription=self._name)
        if self.server_filter:
            config["filter_subjects"] = self._asked
        return config

    @property
    def _asked(self) -> list[str]:
        """Return the subjects that a new reader asks the server for."""
        if self._bare.is_needed:
            return self.server_filter
        return [subject for subject in self.server_filter if subject != self._stream]

    # --- reading -----------------------------------------------------------------------------------------------------

    async def start_reading(self) -> None:
        """Read the events after those that the dispatcher has. Raises StreamNotFound, ServerError, Timeout, Closed."""
        self._reading = True
        self._n_wanted += 1
        await self._make_reader()

    def start_reading_soon(self) -> None:
        """Begin `start_reading` in the background, and try again until it succeeds."""
        self._reading = True
        self._renew("the subscription has become the active one")

    def stop_reading(self) -> None:
        """Read nothing more until reading is started again."""
        self._reading = False
        self._n_wanted += 1
        self._not_asked_since = None
        self._drop_reader()

    def _drop_reader(self) -> None:
        self.forget_pulls()
        if self._dispatcher is not None:
            self._dispatcher.intake.use_no_reader()
        if self.consumer and self._wire.is_up:
            # Nobody waits for the answer: if the request gets lost, the server removes the reader after a minute.
            self._wire.out.request(
                f"PUB {self._api.prefix}.CONSUMER.DELETE.{self._stream}.{self.consumer} 0\r\n\r\n".encode()
            )
        self.consumer: str = ""

    def _renew(self, why: str) -> None:
        """Replace the reader by a new one, in the background."""
        if not self._reading or self._stopped:
            return
        self._logger.debug("subscription %s to %s makes a new reader: %s", self._name, self._stream, why)
        self._n_wanted += 1
        self._drop_reader()
        if self._renewing is None or self._renewing.done():
            self._renewing = self._loop.create_task(self._renew_until_done())

    async def _renew_until_done(self) -> None:
        pause_s = RENEW_FIRST_S
        grace = GracePeriod()
        while self._reading and not self._stopped:
            n_wanted = self._n_wanted
            try:
                await self._make_reader()
                if n_wanted == self._n_wanted:
                    return
                continue
            except Closed:
                return
            except EdaError as error:
                if not grace.allows(error):
                    self._on_end(error)
                    return
                level = logging.DEBUG if error.retryable else logging.WARNING
                self._logger.log(level, NO_READER, self._name, self._stream, error)
            except Exception as error:
                self._logger.critical(FAULT, self._name, self._stream, exc_info=error)
                self._on_end(error)
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RENEW_MAX_S)

    async def _make_reader(self) -> None:
        """Make a reader that begins after the last event received. Give up if another one is requested meanwhile.

        Raises StreamNotFound, ServerError, Timeout, Closed.
        """
        dispatcher = self._dispatcher
        assert dispatcher is not None
        n_wanted = self._n_wanted
        info = await (self._bare.check() if self.server_filter else self._streams.info(self._stream))
        if n_wanted != self._n_wanted:
            return  # meanwhile another reader was requested, or reading was stopped
        if self.created is not None and info.created != self.created:
            self._on_end(ConsumerDeleted(self._stream, self._name, "the stream was deleted and made again"))
            return
        self._adapt_to(info)
        # While no event was read, a start beyond the stream's end does not mean that the stream has lost its end.
        if dispatcher.highest == self.start - 1 and not dispatcher.highest_ns and not dispatcher.intake.highest_seen:
            if not self._is_start_logged:
                self._is_start_logged = True
                warn_of_far_start(self._logger, self._stream, self._name, self.start, info.last_sequence)
        else:
            await self._go_back_if_end_is_lost(info)
            if n_wanted != self._n_wanted:
                return
        if self._bare.is_needed and self._not_asked_since is not None:
            await self._go_back_to_unread(self._not_asked_since)
            if n_wanted != self._n_wanted:
                return
            self._not_asked_since = None
        name = f"eda-r-{next_nuid()}"
        config = self._config(name) | {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": dispatcher.highest + 1,
        }
        if self.server_filter and not self._bare.is_needed and self._not_asked_since is None:
            self._not_asked_since = dispatcher.highest
        made = await self._api.create_consumer(self._stream, name, config)
        if n_wanted != self._n_wanted or not self._reading or self._stopped:
            await self._api.delete_consumer(self._stream, name)
            return
        self.consumer = name
        self.forget_pulls()
        self.use_limits(made["config"])
        self._made = made["config"]
        n_pending = made.get("num_pending", 0)
        dispatcher.intake.use_reader(name, n_pending)
        if not n_pending and dispatcher.highest == dispatcher.position:
            dispatcher.intake.forget_tries()
            self.on_nothing_pending()
        dispatcher.credit.refill()

    async def _go_back_if_end_is_lost(self, info: StreamInfo) -> None:
        """Go back to the last event that is still there if the stream has lost events that were read."""
        dispatcher = self._dispatcher
        assert dispatcher is not None
        n_wanted = self._n_wanted
        survived = await self._position_after_loss(dispatcher, info)
        if survived is None or n_wanted != self._n_wanted:
            return
        self._logger.warning(
            "stream %s has lost its end: event %d, which was read, is not there any more, and the stream ends at %d "
            "now; subscription %s continues after %s",
            self._stream, dispatcher.highest, info.last_sequence, self._name, survived.text,
        )  # fmt: skip
        self._on_rewound(survived)
        if self._not_asked_since is not None:
            self._not_asked_since = min(self._not_asked_since, survived.seq)

    async def _position_after_loss(self, dispatcher: Dispatcher, info: StreamInfo) -> Position | None:
        """Return where to continue if the stream has lost events that were read. None: it has lost nothing.

        Events that were read and not handled are dropped then, and read again if they are still there.
        """
        read = Position(dispatcher.highest, dispatcher.highest_ns)
        survived = await surviving_position(self._api, self._stream, read, info)
        if survived == read:
            return None
        while True:
            done = Position(*dispatcher.position_parts)
            if done != read:
                survived = await surviving_position(self._api, self._stream, done, info)
            if done.place == dispatcher.place:  # otherwise a handler has ended meanwhile: look again
                return survived

    async def _go_back_to_unread(self, not_asked_since: int) -> None:
        """Go back to a message on the stream's own subject that no reader asked for, if later events were read."""
        dispatcher = self._dispatcher
        assert dispatcher is not None
        n_wanted = self._n_wanted
        seq = await self._bare.first_after(not_asked_since)
        if not 0 < seq <= dispatcher.highest:
            return
        before = await position_of(self._api, self._stream, seq - 1)
        if n_wanted != self._n_wanted:
            return
        if dispatcher.position < seq:
            before = Position(*dispatcher.position_parts)
        self._logger.warning(
            "stream %s: message %d on the subject %s itself was not read, but event %d was; subscription %s continues "
            "after %s, and may handle events again",
            self._stream, seq, self._stream, dispatcher.highest, self._name, before.text,
        )  # fmt: skip
        self._on_rewound(before)

    # --- trouble -----------------------------------------------------------------------------------------------------

    def on_gap(self, expected: int, got: int) -> None:
        """Make a new reader, because deliveries are missing."""
        # The parser makes this call, so drop the reader only after the parser has returned.
        self._loop.call_soon(self._renew, f"delivery {got} came instead of {expected}")

    def on_gone(self, why: str) -> None:
        """Make a new reader."""
        self._loop.call_soon(self._renew, f"its reader is gone: {why}")

    def on_silent(self, why: str) -> None:
        """Make a new reader."""
        self._loop.call_soon(self._renew, f"its reader can't be reached: {why}")

    def _on_bare_needed(self, why: str) -> None:
        """Make a new reader that asks for the stream's own subject as well. Take no more deliveries from this one."""
        if self._dispatcher is not None and self._reading:
            self._dispatcher.intake.use_no_reader()
        self._loop.call_soon(self._renew, why)

    def check_consumer(self, why: str) -> None:
        """Begin to check whether the reader has the settings with which it was made. If not, replace it."""
        if self._reading and self.consumer and self._may_check and (self._checking is None or self._checking.done()):
            self._checking = self._loop.create_task(self._check(self.consumer))

    async def _check(self, reader: str) -> None:
        known = self.server_filter
        try:
            info = await self._api.consumer_info(self._stream, reader)
            self._adapt_to(await self._streams.info(self._stream))
        except Closed:
            return
        except StreamNotFound:
            info = None
        except ConfigError as error:
            self._on_end(error)  # the stream's retention was changed
            return
        except EdaError as error:
            # A client that may not ask for its consumer may still read from it.
            self._may_check = error.retryable
            self._logger.debug("subscription %s to %s: checking its reader failed: %s", self._name, self._stream, error)
            return
        except Exception as error:
            self._logger.critical(
                "subscription %s to %s: checking its reader failed", self._name, self._stream, exc_info=error
            )
            self._on_end(error)
            return
        if reader != self.consumer or self._stopped:
            return
        if info is not None and self.server_filter != known:
            self._renew("the stream's subjects were changed")
            return
        if info is None:
            # The server removes a reader after a minute without a pull: after a pause, or because handlers are slow.
            self._renew("its reader is gone")
            return
        changed = changed_settings(self._made, info["config"])
        if changed:
            self._logger.warning(
                "subscription %s to %s: somebody changed its reader (%s); a new reader replaces it",
                self._name, self._stream, changed,
            )  # fmt: skip
            self._renew("its reader was changed")

    def on_stripped(self, seq: int, reply: bytes) -> None:
        """Make a new reader, because this one may leave bodies out.

        The new reader leaves nothing out. So if it delivers the message without a body again, the message has none.
        """
        if self._dispatcher is not None:
            self._dispatcher.intake.accept_empty([seq])
        self._loop.call_soon(self._renew, f"sequence {seq} came without its body")

    def on_restored(self) -> None:
        """Make a new reader, because deliveries that were under way when the connection broke are lost."""
        self._renew("the connection was lost")

    def on_heartbeat(self, last_consumer_seq: int) -> None:
        """Make a new reader if the heartbeat names a later delivery than the last one that came."""
        if self._dispatcher is not None and self.consumer and last_consumer_seq > self._dispatcher.intake.n_read:
            self.on_gap(self._dispatcher.intake.n_read + 1, last_consumer_seq)

    def on_refused(self, kind: str, subject: str) -> None:
        """End the subscription if the server forbids its inbox, its pulls or its readers."""
        super().on_refused(kind, subject)
        self._bare.on_refused(kind, subject)
        if kind == "publish" and subject.startswith(f"{self._api.prefix}.CONSUMER.CREATE.{self._stream}."):
            self._on_end(ServerError(403, 0, f"no permission to publish to {subject}"))

    async def stop(self, timeout_s: float) -> None:
        """Stop the deliveries. Return when no delivery is under way any more, or the server does not answer."""
        self._reading = False
        for task in (self._renewing, self._checking):
            if task is not None:
                task.cancel()
        self._drop_reader()
        await self._bare.close()
        await super().stop(timeout_s)
