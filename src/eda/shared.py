"""The shared source: one durable pull consumer, explicit acknowledgements, any number of members."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from nats.errors import Error as NatsError

from eda._dispatch import Dispatcher
from eda._nuid import next_nuid
from eda._wire import Wire
from eda.api import NS, Api
from eda.errors import Closed, ConfigError, ConsumerDeleted, EdaError, ServerError, StreamNotFound, Timeout
from eda.kinds import server_filter
from eda.labels import labels
from eda.options import SubscriptionOptions
from eda.position import tell_of_start
from eda.pulls import PRIVATE_LIFE_S, Pulls
from eda.shared_filter import FILTER_NOTE, Unwanted, kept_filter
from eda.streams import StreamInfo
from eda.subjects import covers, filter_subjects, shown_filter

__all__ = ["ACK_WAIT_S", "SharedSource"]

ACK_WAIT_S = 30.0
MAX_ACK_PENDING = 65_536
LOOK_PAUSE_S = 0.5
BARRIER_S = 5.0
SAME_S = 0.02  # between two creations of a consumer there is at least a round trip, or two
CONSUMER_EXISTS = 10148
# Settings of a kept consumer that take something away from its events, or make pulls impossible.
FOREIGN_SETTINGS = ("headers_only", "priority_policy", "priority_groups")


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
        self._options = options
        self._durable = durable_name
        self._filter = filter_subjects(stream, options.types, options.aggregate)
        self._server_filter: list[str] = []  # known once the stream is
        self._unwanted = Unwanted(logger, self._filter, self._ask, self._on_narrow)
        self._standing_by: asyncio.Task[None] | None = None
        self.consumer = durable_name or options.name or f"eda-{next_nuid()}"
        self._created: str | None = None  # tells the consumer from a later one of the same name
        self._floor = (0, 0, 0)  # stream and consumer sequence delivered before, events pending
        self._kept_at = 0.0  # when the consumer was asked for something last, or is about to be
        self._is_sure = True  # False after a reconnect, until it was looked at
        self._checking: asyncio.Task[None] | None = None

    # --- the consumer ------------------------------------------------------------------------------------------------

    async def open(self, stream: StreamInfo) -> None:
        """Create the consumer or attach to the kept one. Raises ConfigError naming what contradicts the options."""
        self._server_filter = server_filter(stream, self._filter, filters_well=self._api.filters_well)
        twin = await self._api.twin_domain(self._stream, self.consumer)
        if twin:
            raise ConfigError(
                f"stream {self._stream!r} has a subscription {self.consumer!r} in the domain {twin!r} as well as in "
                f"{self._api.domain!r}, and what is acknowledged in one would be acknowledged in both: use another "
                "name, or an exclusive subscription (exclusive, serial, key)",
                argument="name",
            )
        if self._options.reset:
            await self._api.delete_consumer(self._stream, self.consumer)
        info = await self._api.consumer_info(self._stream, self.consumer)
        if info is None:
            try:
                made = await self._api.create_consumer(self._stream, self.consumer, self._new_config())
            except ServerError as error:
                if error.err_code != CONSUMER_EXISTS:
                    raise
            else:
                await self._refuse_limited_life(made["config"])
                self._note(made)
                if isinstance(self._options.start, int):
                    tell_of_start(self._logger, self._stream, self.consumer, self._options.start, stream.last_sequence)
                return
            info = await self._api.consumer_info(self._stream, self.consumer)
            if info is None:
                raise ConsumerDeleted(self._stream, self.consumer, "while subscribing")
        await self._adopt(info)
        self._note(info)

    async def _refuse_limited_life(self, config: dict[str, Any]) -> None:
        """Raise ConfigError when the stream gives a durable consumer an end, and delete that consumer."""
        if self._durable is None or not config.get("inactive_threshold"):
            return
        await self._api.delete_consumer(self._stream, self.consumer)
        raise ConfigError(
            f"stream {self._stream!r} has consumer_limits with inactive_threshold: the server would delete the durable "
            f"subscription {self.consumer!r} and its offset after {config['inactive_threshold'] / NS:g} s without a "
            "member. Use an ordered subscription (exclusive, serial or key), which keeps its offset elsewhere.",
            argument="durable",
        )

    def _note(self, info: dict[str, Any]) -> None:
        self.limits.read(info["config"])
        delivered = info.get("delivered") or {}
        self._created = info.get("created")
        self._floor = (delivered.get("stream_seq", 0), delivered.get("consumer_seq", 0), info.get("num_pending", 0))

    def _wanted(self) -> dict[str, Any]:
        """The settings that are the same for every member."""
        wanted: dict[str, Any] = {
            "ack_policy": "explicit",
            "ack_wait": int(ACK_WAIT_S * NS),
            "max_deliver": -1,
            "max_ack_pending": MAX_ACK_PENDING,
        }
        if self._filter:
            # The server's filter may be left out (the client filters, too), so what was asked for is noted apart.
            wanted["metadata"] = {FILTER_NOTE: " ".join(self._filter)}
            if self._server_filter:
                wanted["filter_subjects"] = self._server_filter
        return wanted

    def _labels(self) -> dict[str, Any]:
        what = f"subscription {self.consumer} of stream {self._stream}"
        return labels("shared", client=self._api.client, what=what, subscription=self.consumer)

    def _new_config(self) -> dict[str, Any]:
        options = self._options
        wanted, label = self._wanted(), self._labels()
        config = wanted | label | {"name": self.consumer, "replay_policy": "instant"}
        config["metadata"] = label["metadata"] | wanted.get("metadata", {})
        if self._durable is not None:
            config["durable_name"] = self._durable
        else:
            config["inactive_threshold"] = int(PRIVATE_LIFE_S * NS)
        if options.backfill:
            config["deliver_policy"] = "all"
        elif isinstance(options.start, datetime):
            config["deliver_policy"] = "by_start_time"
            config["opt_start_time"] = options.start.astimezone(UTC).isoformat().replace("+00:00", "Z")
        elif options.start is not None:
            config["deliver_policy"] = "by_start_sequence"
            config["opt_start_seq"] = options.start
        else:
            config["deliver_policy"] = "new"
        return config

    async def _adopt(self, info: dict[str, Any]) -> None:
        """Use a consumer that exists: refuse what contradicts, update what may differ."""
        kept, wanted = info["config"], self._wanted()
        differences = []
        if kept.get("deliver_subject"):
            differences.append(f"it pushes to {kept['deliver_subject']!r}, a pull consumer is needed")
        if kept.get("ack_policy") != "explicit":
            differences.append(f"its ack_policy is {kept.get('ack_policy')!r}, 'explicit' is needed")
        theirs = kept_filter(kept)
        changes_filter = set(theirs) != set(self._filter)
        if changes_filter and self._options.on_filter_change == "refuse":
            differences.append(
                f"it filters {shown_filter(theirs)}, the options ask for {shown_filter(self._filter)} "
                "(on_filter_change='from_here' changes the filter from the kept position onward)"
            )
        if bool(kept.get("durable_name")) != (self._durable is not None):
            differences.append(f"it was made with durable={bool(kept.get('durable_name'))}")
        differences += [
            f"it has {setting}={kept[setting]!r}"
            for setting in FOREIGN_SETTINGS
            if kept.get(setting) not in (None, 0, -1, False, "", "none", [])
        ]
        if differences:
            raise ConfigError(
                f"subscription {self.consumer!r} of stream {self._stream!r} exists and differs: "
                + "; ".join(differences)
                + ". Use another name, or reset=True to forget its offset.",
                argument="name",
            )
        if changes_filter:
            kept = await self._change_filter(info, theirs)
        updatable = ("ack_wait", "max_deliver", "max_ack_pending")
        changed = {key: wanted[key] for key in updatable if kept.get(key) != wanted[key]}
        if changed or kept.get("backoff"):
            self._logger.warning("consumer %s of %s: updating %s", self.consumer, self._stream, sorted(changed))
            config = {key: value for key, value in kept.items() if key != "backoff"} | changed
            await self._api.create_consumer(self._stream, self.consumer, config, action="update")

    async def _change_filter(self, info: dict[str, Any], theirs: list[str]) -> dict[str, Any]:
        """Have the consumer ask for what this member wants, from its position onward; returns its new settings."""
        kept, mine = info["config"], self._filter
        where = f"subscription {self.consumer!r} of stream {self._stream!r}"
        if not self._is_filtered_by_server(kept, theirs) or bool(mine) != bool(self._server_filter):
            raise ConfigError(
                f"{where}: its members filter in the client, and would acknowledge what a changed filter asks for. "
                "on_filter_change='from_here' needs nats-server 2.12 and a stream with subjects of its own name. Use "
                "another name, or reset=True to forget its offset.",
                argument="on_filter_change",
            )
        if not covers(mine, theirs) and (info.get("num_waiting") or info.get("num_ack_pending")):
            raise ConfigError(
                f"{where}: it filters {shown_filter(theirs)} for members that are attached; the narrower filter "
                f"{shown_filter(mine)} would withhold their events. Close them first.",
                argument="on_filter_change",
            )
        metadata = {key: value for key, value in (kept.get("metadata") or {}).items() if key != FILTER_NOTE}
        config = {key: value for key, value in kept.items() if key not in ("filter_subject", "filter_subjects")}
        if mine:
            metadata[FILTER_NOTE] = " ".join(mine)
            config["filter_subjects"] = self._server_filter
        made = await self._api.create_consumer(
            self._stream, self.consumer, config | {"metadata": metadata}, action="update"
        )
        self._logger.warning(
            "%s: its filter was %s and is %s now, from its position onward",
            where,
            shown_filter(theirs),
            shown_filter(mine),
        )
        changed: dict[str, Any] = made["config"]
        return changed

    def _is_filtered_by_server(self, config: dict[str, Any], theirs: list[str]) -> bool:
        return not theirs or bool(config.get("filter_subjects") or config.get("filter_subject"))

    async def start(self, dispatcher: Dispatcher) -> None:
        """Begin to supply the dispatcher."""
        dispatcher.set_floor(*self._floor)
        if self._server_filter:
            dispatcher.doubt_unwanted()
        await self.attach(dispatcher)
        dispatcher.set_max_pulls(self.limits.n_waiting)
        dispatcher.refill()

    async def stop(self, timeout_s: float) -> None:
        """Stop the deliveries; returns when none is under way any more, or nobody can tell."""
        self._unwanted.stop()
        if self._checking is not None:
            self._checking.cancel()
        await super().stop(timeout_s)

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
        """Delete the consumer, and with it the offset."""
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

    # --- is it still there? ------------------------------------------------------------------------------------------

    def on_gone(self, why: str) -> None:
        """End, unless another look finds the consumer."""
        self.on_silent(why)

    def on_silent(self, why: str) -> None:
        """See whether the consumer is still there."""
        if self._checking is None or self._checking.done():
            self._checking = self._loop.create_task(self._look_or_end(why))

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
        elif self._durable is None and now - self._kept_at > PRIVATE_LIFE_S / 4 and not self._stopped:
            self._kept_at = now
            # No event fits into a byte, and number 0 is that of no pull of ours.
            body = b'{"batch":1,"expires":1000000000,"max_bytes":1}'
            self._wire.out.command(f"PUB {self.pull_subject} {self._inbox}.0 {len(body)}\r\n".encode() + body + b"\r\n")

    async def _look_or_end(self, why: str) -> None:
        """Look at the consumer; whatever fails for good ends the subscription."""
        try:
            await self._look(why)
        except Closed:
            return
        except Exception as error:
            if not isinstance(error, EdaError):
                self._logger.critical(
                    "consumer %s of %s: looking at it failed", self.consumer, self._stream, exc_info=error
                )
            self._on_end(error)

    async def _look(self, why: str) -> None:
        """End the subscription if its stream or consumer is gone, else pull again. Raises what is refused for good."""
        while True:
            try:
                info = await self._api.consumer_info(self._stream, self.consumer)
                break
            except (StreamNotFound, Closed):
                raise
            except EdaError as error:
                if not error.retryable:
                    raise
                self._logger.info(
                    "consumer %s of %s: %s, and asking failed: %s", self.consumer, self._stream, why, error
                )
            await asyncio.sleep(LOOK_PAUSE_S)
        if info is None or not self._is_same(info) or info["config"].get("deliver_subject"):
            self._on_end(ConsumerDeleted(self._stream, self.consumer, why))
        elif not covers(self._filter, kept_filter(info["config"])):
            self._on_narrow(kept_filter(info["config"]))
        elif self._dispatcher is not None and not self._stopped:
            was_sure, self._is_sure = self._is_sure, True
            self.pull_anew(pause=was_sure)

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
