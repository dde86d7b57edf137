"""The ordered source: a throw-away reader that begins at a sequence of our choosing.

It asks for no acknowledgements. Consumer sequences without a gap prove that nothing is missing; whatever makes that
doubtful (a gap, a reconnect, silence, a lost consumer) has one answer: a new reader, behind the last event received.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from eda._nuid import next_nuid
from eda._wire import Wire
from eda.api import NS, Api
from eda.errors import Closed, ConfigError, ConsumerDeleted, EdaError, ServerError, StreamNotFound
from eda.kinds import refuse_retention, server_filter
from eda.labels import labels
from eda.options import SubscriptionOptions
from eda.pulls import PRIVATE_LIFE_S, Pulls
from eda.streams import StreamInfo, Streams
from eda.subjects import filter_subjects

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
        on_rewound: Callable[[int], None],
    ) -> None:
        super().__init__(wire, api, logger, stream, on_end)
        self._streams = streams
        self._name = name
        self._options = options
        self.filter = filter_subjects(stream, options.types, options.aggregate)
        self._server_filter: list[str] = []  # known once the stream is
        self._on_rewound = on_rewound
        self.on_nothing_pending: Callable[[], None] = lambda: None  # behind what is done
        self._created: datetime | None = None  # of the stream, when the subscription was opened
        self.start = options.start if isinstance(options.start, int) else 0  # the sequence told to begin at
        self._reading = False
        self._n_wanted = 0  # readers asked for so far; the latest is the one that counts
        self._renewing: asyncio.Task[None] | None = None

    # --- where to begin ----------------------------------------------------------------------------------------------

    def open(self, info: StreamInfo) -> None:
        """Note the stream as it is when the subscription is opened."""
        self._created = info.created
        self._note(info)

    def _note(self, info: StreamInfo) -> None:
        """Take what the stream's settings are now. Raises ConfigError when they allow no ordered subscription."""
        refuse_retention(info, self._options, filters_well=self._api.filters_well)
        self._server_filter = server_filter(info, self.filter, filters_well=self._api.filters_well)

    async def first_position(self) -> int:
        """Return the sequence before the first event that the options ask for. Raises StreamNotFound, ServerError."""
        info = await self._streams.info(self._stream)
        options = self._options
        if options.backfill:
            return max(info.first_sequence - 1, 0)
        if isinstance(options.start, datetime):
            return await self._position_at(options.start)
        return options.start - 1 if options.start is not None else info.last_sequence

    async def _position_at(self, start: datetime) -> int:
        """Have the server find the time: a consumer that begins there tells its place."""
        name = f"eda-r-{next_nuid()}"
        config = self._config(name) | {
            "deliver_policy": "by_start_time",
            "opt_start_time": start.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        }
        made = await self._api.create_consumer(self._stream, name, config)
        await self._api.delete_consumer(self._stream, name)
        return int((made.get("delivered") or {}).get("stream_seq", 0))

    def _config(self, name: str) -> dict[str, Any]:
        config: dict[str, Any] = {
            "name": name,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": int(PRIVATE_LIFE_S * NS),
            "mem_storage": True,
            "num_replicas": 1,
        }
        what = f"reader of subscription {self._name} of stream {self._stream}"
        config |= labels("reader", client=self._api.client, what=what, subscription=self._name)
        if self._server_filter:
            config["filter_subjects"] = self._server_filter
        return config

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
        self._drop_reader()

    def _drop_reader(self) -> None:
        self.forget_pulls()
        if self._dispatcher is not None:
            self._dispatcher.use_no_reader()
        if self.consumer and self._wire.is_up:
            # Nobody waits for the answer: the server would remove it by itself after a minute.
            self._wire.out.command(
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
        while self._reading and not self._stopped:
            n_wanted = self._n_wanted
            try:
                await self._make_reader()
                if n_wanted == self._n_wanted:
                    return
                continue
            except (StreamNotFound, ConfigError) as error:
                self._on_end(error)
                return
            except Closed:
                return
            except EdaError as error:
                log = self._logger.info if getattr(error, "retryable", False) else self._logger.warning
                log("subscription %s to %s can't read: %s", self._name, self._stream, error)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RENEW_MAX_S)

    async def _make_reader(self) -> None:
        dispatcher = self._dispatcher
        assert dispatcher is not None
        n_wanted = self._n_wanted
        info = await self._streams.info(self._stream)
        if n_wanted != self._n_wanted:
            return  # what was asked for is no longer what matters
        if self._created is not None and info.created != self._created:
            self._on_end(ConsumerDeleted(self._stream, self._name, "the stream was deleted and made again"))
            return
        self._note(info)
        # A start that is still to come is above the end as well, until something was read.
        is_to_come = dispatcher.highest == self.start - 1 and not dispatcher.seen
        if info.last_sequence < dispatcher.highest and not is_to_come:
            self._logger.warning(
                "stream %s ends at sequence %d now, before %d, which was read: its server has lost what was not "
                "synced; subscription %s goes on there",
                self._stream, info.last_sequence, dispatcher.highest, self._name,
            )  # fmt: skip
            # What was read and not handled is read again, as far as it is still there.
            self._on_rewound(min(dispatcher.position, info.last_sequence))
            if n_wanted != self._n_wanted:
                return
        name = f"eda-r-{next_nuid()}"
        config = self._config(name) | {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": dispatcher.highest + 1,
        }
        made = await self._api.create_consumer(self._stream, name, config)
        if n_wanted != self._n_wanted or not self._reading or self._stopped:
            await self._api.delete_consumer(self._stream, name)
            return
        self.consumer = name
        self.forget_pulls()
        self.use_limits(made["config"])
        n_pending = made.get("num_pending", 0)
        dispatcher.use_reader(name, n_pending)
        if not n_pending and dispatcher.highest == dispatcher.position:
            dispatcher.forget_tries()
            self.on_nothing_pending()
        dispatcher.refill()

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
        if kind == "publish" and subject.startswith(f"{self._api.prefix}.CONSUMER.CREATE.{self._stream}."):
            self._on_end(ServerError(403, 0, f"no permission to publish to {subject}"))

    async def stop(self, timeout_s: float) -> None:
        """Stop the deliveries."""
        self._reading = False
        if self._renewing is not None:
            self._renewing.cancel()
        self._drop_reader()
        await super().stop(timeout_s)
