"""The ordered source: a throw-away reader that begins at a sequence of our choosing.

It asks for no acknowledgements. Consumer sequences without a gap prove that nothing is missing; whatever makes that
doubtful (a gap, a reconnect, silence, a lost consumer) has one answer: a new reader, behind the last event received.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from eda._nuid import next_nuid
from eda.cursors.position import (
    UNREAD_NS,
    Position,
    position_of,
    sequence_at,
    surviving_position,
    warn_of_far_start,
)
from eda.errors import Closed, ConfigError, ConsumerDeleted, EdaError, ServerError, StreamNotFound
from eda.jetstream.api import Api
from eda.jetstream.consumer_settings import changed_settings, reader_settings
from eda.jetstream.grace_period import GracePeriod
from eda.jetstream.labels import labels
from eda.jetstream.streams import StreamInfo, Streams
from eda.jetstream.subjects import filter_subjects
from eda.options import SubscriptionOptions
from eda.subscribing.bare_subject import BareSubject
from eda.subscribing.durable_names import refuse_retention, server_filter
from eda.subscribing.source import Pulls
from eda.times import since_epoch_ns
from eda.transport.wire import Wire

__all__ = ["OrderedSource"]


RENEW_FIRST_S = 0.05
RENEW_MAX_S = 2.0


class OrderedSource(Pulls):
    """Keeps a dispatcher supplied with every event of a stream, in order, from wherever it wants to go on.

    `on_rewound(position)` is called when the stream has lost its end (a server that died before it synced): all is read
    again from there on.
    """

    def __init__(
        self,
        wire: Wire,
        api: Api,
        streams: Streams,
        logger: logging.Logger,
        stream: str,
        name: str,
        options: SubscriptionOptions,
        on_end: Callable[[Exception], None],
        on_rewound: Callable[[Position], None],
    ) -> None:
        super().__init__(wire, api, logger, stream, on_end)
        self._streams = streams
        self._name = name
        self._options = options
        self.filter = filter_subjects(stream, options.types, options.aggregate)
        self._server_filter: list[str] = []  # known once the stream is
        self._bare = BareSubject(wire, api, logger, stream, self._on_bare_needed)
        self._unasked_from: int | None = None  # from there on nobody asked for the stream's own subject
        self._on_rewound = on_rewound
        self.on_nothing_pending: Callable[[], None] = lambda: None  # behind what is done
        self._created: datetime | None = None  # of the stream, when the subscription was opened
        self.start = options.start if isinstance(options.start, int) else 0  # the sequence told to begin at
        self._is_start_told = False
        self._reading = False
        self._n_wanted = 0  # readers asked for so far; the latest is the one that counts
        self._renewing: asyncio.Task[None] | None = None
        self._made: dict[str, Any] = {}  # the reader's settings as it was made
        self._looking: asyncio.Task[None] | None = None
        self._may_look = True

    # --- where to begin ----------------------------------------------------------------------------------------------

    def open(self, info: StreamInfo) -> None:
        """Note the stream as it is when the subscription is opened."""
        self._created = info.created
        self._note(info)

    def _note(self, info: StreamInfo) -> None:
        """Take what the stream's settings are now. Raises ConfigError when they allow no ordered subscription."""
        refuse_retention(info, self._options, filters_reliably=self._api.filters_reliably)
        self._server_filter = server_filter(info, self.filter, filters_reliably=self._api.filters_reliably)

    async def first_position(self) -> Position:
        """Return the position before the first event that the options ask for. Raises StreamNotFound, ServerError."""
        info = await self._streams.info(self._stream)
        options = self._options
        if options.backfill:
            return Position(info.first_sequence - 1, UNREAD_NS) if info.first_sequence > 1 else Position(0)
        if options.start is None:
            return Position(info.last_sequence, info.last_time_ns)
        start = options.start
        if isinstance(start, datetime):
            start = await sequence_at(self._api, self._stream, since_epoch_ns(start), info)
        return await position_of(self._api, self._stream, start - 1)

    def _config(self, name: str) -> dict[str, Any]:
        what = f"reader of subscription {self._name!r} of stream {self._stream!r}"
        config = reader_settings(name) | labels("reader", client=self._api.client, what=what, subscription=self._name)
        if self._server_filter:
            config["filter_subjects"] = self._asked
        return config

    @property
    def _asked(self) -> list[str]:
        """The subjects that a reader asks the server for now."""
        if self._bare.is_needed:
            return self._server_filter
        return [subject for subject in self._server_filter if subject != self._stream]

    # --- reading -----------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Read on behind what the dispatcher has. Raises StreamNotFound, ServerError, Timeout, Closed."""
        self._reading = True
        self._n_wanted += 1
        await self._make_reader()

    def begin_soon(self) -> None:
        """The same, as often as it takes."""
        self._reading = True
        self._renew("the subscription is the active one")

    def halt(self) -> None:
        """Read nothing more, until `begin`."""
        self._reading = False
        self._n_wanted += 1
        self._unasked_from = None
        self._drop_reader()

    def _drop_reader(self) -> None:
        self.forget_pulls()
        if self._dispatcher is not None:
            self._dispatcher.use_no_reader()
        if self.consumer and self._wire.is_up:
            # Nobody waits for the answer: the server would remove it by itself after a minute.
            self._wire.out.request(
                f"PUB {self._api.prefix}.CONSUMER.DELETE.{self._stream}.{self.consumer} 0\r\n\r\n".encode()
            )
        self.consumer = ""

    def _renew(self, why: str) -> None:
        """Have a new reader in place of the one we have."""
        if not self._reading or self._stopped:
            return
        self._logger.info("subscription %s to %s reads anew: %s", self._name, self._stream, why)
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
                log = self._logger.info if error.retryable else self._logger.warning
                log("subscription %s to %s can't read: %s", self._name, self._stream, error)
            except Exception as error:
                self._logger.critical("subscription %s to %s failed", self._name, self._stream, exc_info=error)
                self._on_end(error)
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RENEW_MAX_S)

    async def _make_reader(self) -> None:
        dispatcher = self._dispatcher
        assert dispatcher is not None
        n_wanted = self._n_wanted
        info = await (self._bare.look() if self._server_filter else self._streams.info(self._stream))
        if n_wanted != self._n_wanted:
            return  # what was asked for is no longer what matters
        if self._created is not None and info.created != self._created:
            self._on_end(ConsumerDeleted(self._stream, self._name, "the stream was deleted and made again"))
            return
        self._note(info)
        # A start that is still to come is above the end as well, until something was read.
        if dispatcher.highest == self.start - 1 and not dispatcher.highest_ns and not dispatcher.seen:
            if not self._is_start_told:
                self._is_start_told = True
                warn_of_far_start(self._logger, self._stream, self._name, self.start, info.last_sequence)
        else:
            whole = await self._surviving_position(info)
            if n_wanted != self._n_wanted:
                return
            if whole is not None:
                self._logger.warning(
                    "stream %s has lost its end: event %d, which was read, is not there any more, and the stream ends "
                    "at %d now; subscription %s goes on behind %d",
                    self._stream, dispatcher.highest, info.last_sequence, self._name, whole.seq,
                )  # fmt: skip
                self._on_rewound(whole)
                if self._unasked_from is not None:
                    self._unasked_from = min(self._unasked_from, whole.seq)
        if self._bare.is_needed and self._unasked_from is not None:
            await self._go_back_to_overtaken(self._unasked_from)
            if n_wanted != self._n_wanted:
                return
            self._unasked_from = None
        name = f"eda-r-{next_nuid()}"
        config = self._config(name) | {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": dispatcher.highest + 1,
        }
        if self._server_filter and not self._bare.is_needed and self._unasked_from is None:
            self._unasked_from = dispatcher.highest
        made = await self._api.create_consumer(self._stream, name, config)
        if n_wanted != self._n_wanted or not self._reading or self._stopped:
            await self._api.delete_consumer(self._stream, name)
            return
        self.consumer = name
        self.forget_pulls()
        self.use_limits(made["config"])
        self._made = made["config"]
        n_pending = made.get("num_pending", 0)
        dispatcher.use_reader(name, n_pending)
        if not n_pending and dispatcher.highest == dispatcher.position:
            dispatcher.forget_tries()
            self.on_nothing_pending()
        dispatcher.refill()

    async def _surviving_position(self, info: StreamInfo) -> Position | None:
        """Return where to go on when the stream does not have what was read of it any more, None when it has.

        What was read and not handled is read again then, as far as it is still there.
        """
        dispatcher = self._dispatcher
        assert dispatcher is not None
        read = Position(dispatcher.highest, dispatcher.highest_ns)
        whole = await surviving_position(self._api, self._stream, read, info)
        if whole == read:
            return None
        while True:
            done = Position(dispatcher.position, dispatcher.position_ns)
            if done != read:
                whole = await surviving_position(self._api, self._stream, done, info)
            if done.seq == dispatcher.position:  # no handler has ended meanwhile
                return whole

    async def _go_back_to_overtaken(self, unasked_from: int) -> None:
        """Go back to a message on the stream's own subject that later events had overtaken when we heard of it."""
        dispatcher = self._dispatcher
        assert dispatcher is not None
        n_wanted = self._n_wanted
        seq = await self._bare.first_after(unasked_from)
        if not 0 < seq <= dispatcher.highest:
            return
        before = await position_of(self._api, self._stream, seq - 1)
        if n_wanted != self._n_wanted:
            return
        if dispatcher.position < seq:
            before = Position(dispatcher.position, dispatcher.position_ns)
        self._logger.warning(
            "stream %s: message %d on the subject %s itself was overtaken by %d; subscription %s goes on behind %d, "
            "and may handle events again",
            self._stream, seq, self._stream, dispatcher.highest, self._name, before.seq,
        )  # fmt: skip
        self._on_rewound(before)

    # --- troubles ----------------------------------------------------------------------------------------------------

    def on_gap(self, expected: int, got: int) -> None:
        """Read again what did not come."""
        # Called from within the parser: not there.
        self._loop.call_soon(self._renew, f"delivery {got} came in place of {expected}")

    def on_gone(self, why: str) -> None:
        """Have another reader."""
        self._loop.call_soon(self._renew, f"its reader is gone: {why}")

    def on_silent(self, why: str) -> None:
        """Have another reader."""
        self._loop.call_soon(self._renew, f"its reader is out of reach: {why}")

    def _on_bare_needed(self, why: str) -> None:
        """Have another reader, which asks for the stream's own subject as well; take no more of the one we have."""
        if self._dispatcher is not None and self._reading:
            self._dispatcher.use_no_reader()
        self._loop.call_soon(self._renew, why)

    def look(self, why: str) -> None:
        """See whether the reader is as it was made, and have another one if not."""
        if self._reading and self.consumer and self._may_look and (self._looking is None or self._looking.done()):
            self._looking = self._loop.create_task(self._look_at(self.consumer))

    async def _look_at(self, reader: str) -> None:
        known = self._server_filter
        try:
            info = await self._api.consumer_info(self._stream, reader)
            self._note(await self._streams.info(self._stream))
        except Closed:
            return
        except StreamNotFound:
            info = None
        except ConfigError as error:
            self._on_end(error)  # the stream does not keep its events any more
            return
        except EdaError as error:
            # Who may not ask can read all the same.
            self._may_look = error.retryable
            self._logger.info("subscription %s to %s can't look at its reader: %s", self._name, self._stream, error)
            return
        except Exception as error:
            self._logger.critical("subscription %s to %s failed", self._name, self._stream, exc_info=error)
            self._on_end(error)
            return
        if reader != self.consumer or self._stopped:
            return
        if info is not None and self._server_filter != known:
            self._renew("the stream's subjects were changed")
            return
        if info is None:
            # The server removes it when it is asked for nothing for a minute: paused, or handlers are slow.
            self._renew("its reader is gone")
            return
        changed = changed_settings(self._made, info["config"])
        if changed:
            self._logger.warning(
                "subscription %s to %s: somebody changed its reader (%s); another one takes its place",
                self._name, self._stream, changed,
            )  # fmt: skip
            self._renew("its reader was changed")

    def on_stripped(self, seq: int, reply: bytes) -> None:
        """Have another reader: this one leaves out bodies, unless the message has none in the stream either."""
        if self._dispatcher is not None:
            self._dispatcher.believe_empty([seq])  # of the next reader, which leaves out nothing
        self._loop.call_soon(self._renew, f"sequence {seq} came without its body")

    def on_restored(self) -> None:
        """Have another reader: what was on its way to us when the connection broke is lost."""
        self._renew("the connection was lost")

    def on_heartbeat(self, last_consumer_seq: int) -> None:
        """Notice that the last deliveries did not come."""
        if self._dispatcher is not None and self.consumer and last_consumer_seq > self._dispatcher.n_read:
            self.on_gap(self._dispatcher.n_read + 1, last_consumer_seq)

    def on_refused(self, kind: str, subject: str) -> None:
        """End when readers are forbidden."""
        super().on_refused(kind, subject)
        self._bare.on_refused(kind, subject)
        if kind == "publish" and subject.startswith(f"{self._api.prefix}.CONSUMER.CREATE.{self._stream}."):
            self._on_end(ServerError(403, 0, f"no permission to publish to {subject}"))

    async def stop(self, timeout_s: float) -> None:
        """Stop the deliveries."""
        self._reading = False
        for task in (self._renewing, self._looking):
            if task is not None:
                task.cancel()
        self._drop_reader()
        await self._bare.close()
        await super().stop(timeout_s)
