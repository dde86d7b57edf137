"""The shared source: one durable pull consumer, explicit acknowledgements, credit kept ahead of the events.

Source for pulls and their statuses: https://docs.nats.io/nats-concepts/jetstream/consumers, ADR-13 and ADR-37.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError

from eda._dispatch import Dispatcher
from eda._nuid import next_nuid
from eda._wire import Wire
from eda.api import NS, Api
from eda.errors import Closed, ConfigError, ConsumerDeleted, EdaError, ServerError, StreamNotFound, Timeout
from eda.options import SubscriptionOptions
from eda.subjects import filter_subjects

__all__ = ["ACK_WAIT_S", "SharedSource"]

ACK_WAIT_S = 30.0
MAX_ACK_PENDING = 65_536
PRIVATE_LIFE_S = 60.0
EXPIRES_S = 30.0
HEARTBEAT_S = 5.0
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 2.0
CONSUMER_EXISTS = 10148
FILTER_NOTE = "eda-filter"  # consumer metadata


class SharedSource:
    """Keeps a dispatcher supplied from a consumer that any number of members may share.

    `on_end(error)` is called once when the consumer is gone for good.
    """

    def __init__(
        self,
        wire: Wire,
        api: Api,
        logger: logging.Logger,
        stream: str,
        options: SubscriptionOptions,
        durable_name: str | None,
        on_end: Callable[[EdaError], None],
    ) -> None:
        self._wire = wire
        self._api = api
        self._logger = logger
        self._stream = stream
        self._options = options
        self._durable = durable_name
        self._filter = filter_subjects(stream, options.types, options.aggregate)
        self._on_end = on_end
        self.consumer = durable_name or options.name or f"eda-{next_nuid()}"
        self._inbox = wire.new_inbox()
        self.inbox = f"{self._inbox}.".encode()
        self._created: str | None = None  # tells the consumer from a later one of the same name
        self._subscription: NatsSubscription | None = None
        self._dispatcher: Dispatcher | None = None
        self._loop = asyncio.get_running_loop()
        self._next_pull = 1
        self._first_valid = 1  # pulls before this one are over, whatever is still said of them
        self._n_seen = 0
        self._seen_at = 0.0
        self._retry: asyncio.TimerHandle | None = None
        self._retry_s = RETRY_FIRST_S
        self._checking: asyncio.Task[None] | None = None
        self._stopped = False

    # --- the consumer ------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Create the consumer or attach to the kept one. Raises ConfigError naming what contradicts the options."""
        if self._options.reset:
            await self._api.delete_consumer(self._stream, self.consumer)
        info = await self._api.consumer_info(self._stream, self.consumer)
        if info is None:
            try:
                created = await self._api.create_consumer(self._stream, self.consumer, self._new_config())
                self._created = created.get("created")
                return
            except ServerError as error:
                if error.err_code != CONSUMER_EXISTS:
                    raise
            info = await self._api.consumer_info(self._stream, self.consumer)
            if info is None:
                raise ConsumerDeleted(self._stream, self.consumer, "while subscribing")
        await self._adopt(info["config"])
        self._created = info.get("created")

    def _wanted(self) -> dict[str, Any]:
        """The settings that are the same for every member."""
        options = self._options
        wanted: dict[str, Any] = {
            "ack_policy": "explicit",
            "ack_wait": int(ACK_WAIT_S * NS),
            "max_deliver": -1,
            "max_ack_pending": 1 if options.serial else MAX_ACK_PENDING,
        }
        if self._filter:
            # The server's filter may be left out (the client filters, too), so what was asked for is noted apart.
            wanted["metadata"] = {FILTER_NOTE: " ".join(self._filter)}
            if self._api.filters_well:
                wanted["filter_subjects"] = self._filter
        return wanted

    def _new_config(self) -> dict[str, Any]:
        options = self._options
        config = self._wanted() | {"name": self.consumer, "replay_policy": "instant"}
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

    async def _adopt(self, kept: dict[str, Any]) -> None:
        """Use a consumer that exists: refuse what contradicts, update what may differ."""
        wanted = self._wanted()
        differences = []
        if kept.get("deliver_subject"):
            differences.append(f"it pushes to {kept['deliver_subject']!r}, a pull consumer is needed")
        if kept.get("ack_policy") != "explicit":
            differences.append(f"its ack_policy is {kept.get('ack_policy')!r}, 'explicit' is needed")
        noted = (kept.get("metadata") or {}).get(FILTER_NOTE, "").split()
        kept_filter = noted or kept.get("filter_subjects") or [each for each in [kept.get("filter_subject")] if each]
        if set(kept_filter) != set(self._filter):
            asked = sorted(self._filter) or "nothing"
            differences.append(f"it filters {sorted(kept_filter) or 'nothing'}, the options ask for {asked}")
        was_serial = kept.get("max_ack_pending") == 1
        if was_serial != bool(self._options.serial):
            differences.append(f"it was made with serial={was_serial}")
        if bool(kept.get("durable_name")) != (self._durable is not None):
            differences.append(f"it was made with durable={bool(kept.get('durable_name'))}")
        if differences:
            raise ConfigError(
                f"subscription {self.consumer!r} of stream {self._stream!r} exists and differs: "
                + "; ".join(differences)
                + ". Use another name, or reset=True to forget its offset.",
                argument="name",
            )
        updatable = ("ack_wait", "max_deliver", "max_ack_pending")
        changed = {key: wanted[key] for key in updatable if kept.get(key) != wanted[key]}
        if changed or kept.get("backoff"):
            self._logger.warning("consumer %s of %s: updating %s", self.consumer, self._stream, sorted(changed))
            config = {key: value for key, value in kept.items() if key != "backoff"} | changed
            await self._api.create_consumer(self._stream, self.consumer, config, action="update")

    async def start(self, dispatcher: Dispatcher) -> None:
        """Begin to supply the dispatcher."""
        self._dispatcher = dispatcher
        self._subscription = await self._wire.attach(f"{self._inbox}.*", dispatcher)
        self._wire.on_restored.append(self._on_restored)
        self._wire.on_lost.append(self._on_lost)
        self._seen_at = self._loop.time()
        dispatcher.refill()

    async def stop(self, timeout_s: float) -> None:
        """Stop the deliveries; returns when none is under way any more, or nobody can tell."""
        self._stopped = True
        if self._retry is not None:
            self._retry.cancel()
        if self._checking is not None:
            self._checking.cancel()
        if self._on_restored in self._wire.on_restored:
            self._wire.on_restored.remove(self._on_restored)
            self._wire.on_lost.remove(self._on_lost)
        if self._subscription is None or self._wire.is_closed:
            return
        await self._wire.detach(self._subscription)
        try:
            await self._wire.barrier(timeout_s)
        except (Timeout, Closed) as error:
            self._logger.warning("closing a subscription to %s: %s", self._stream, error)

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

    def release(self) -> None:
        """Forget the dispatcher."""
        if self._subscription is not None:
            self._wire.release(self._subscription)
            self._subscription = None

    async def forget(self) -> None:
        """Delete the consumer, and with it the offset."""
        await self._api.delete_consumer(self._stream, self.consumer)

    # --- pulls -------------------------------------------------------------------------------------------------------

    def pull(self, n: int, n_bytes: int | None) -> None:
        """Ask for up to `n` more events of `n_bytes` together (None: one of any size)."""
        if self._stopped or self._retry is not None or not self._wire.is_up or self._dispatcher is None:
            return
        request: dict[str, int] = {
            "batch": n,
            "expires": int(EXPIRES_S * NS),
            "idle_heartbeat": int(HEARTBEAT_S * NS),
        }
        if n_bytes is not None:
            request["max_bytes"] = n_bytes
        body = msgspec.json.encode(request)
        subject = f"{self._api.prefix}.CONSUMER.MSG.NEXT.{self._stream}.{self.consumer}"
        head = f"PUB {subject} {self._inbox}.{self._next_pull} {len(body)}\r\n".encode()
        self._next_pull += 1
        self._wire.out.command(head + body + b"\r\n")
        self._dispatcher.grant(n, n_bytes or 0)

    def on_status(self, status: int, tail: bytes, headers: bytes) -> None:
        """Take what the server says of a pull."""
        dispatcher = self._dispatcher
        if dispatcher is None or status == 100 or self._stopped:
            return
        if not tail.isdigit() or int(tail) < self._first_valid:
            return
        description, n_left, n_bytes_left = _read_status(headers)
        if status in (404, 408) or (status == 409 and n_left is not None):
            self._retry_s = RETRY_FIRST_S
            dispatcher.revoke(n_left or 0, n_bytes_left or 0)
            if "exceeds maxbytes" not in description:
                dispatcher.refill()
            elif dispatcher.n_held == 0:
                # Nothing else is held, and still it does not fit: one event, whatever its size.
                dispatcher.revoke_all()
                self.pull(1, None)
        elif status == 409 and "consumer deleted" in description:
            self._check("it was deleted")
        elif status == 409 and "push based" in description:
            self._on_end(ConsumerDeleted(self._stream, self.consumer, "it was replaced by a push consumer"))
        else:
            # Leadership change, server shutdown, limits exceeded, 503: nothing is known of any pull.
            self._logger.info("stream %s: pulling again after %d %s", self._stream, status, description)
            self._restart(pause=True)
            if status == 503:
                self._check("nobody answers for it")

    def _restart(self, *, pause: bool) -> None:
        """Forget all pulls, and pull anew, after a pause that grows while it keeps failing."""
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
            self._dispatcher.refill()

    def _on_lost(self) -> None:
        if self._dispatcher is not None:
            self._first_valid = self._next_pull
            self._dispatcher.revoke_all()

    def _on_restored(self) -> None:
        self._seen_at = self._loop.time()
        self._retry_s = RETRY_FIRST_S
        self._restart(pause=False)

    def tick(self) -> None:
        """Notice, a few times a second, when the server has fallen silent though it owes events or heartbeats."""
        dispatcher = self._dispatcher
        if dispatcher is None or self._stopped:
            return
        now = self._loop.time()
        if dispatcher.n_received != self._n_seen or not self._wire.is_up or dispatcher.credit == 0:
            self._n_seen = dispatcher.n_received
            self._seen_at = now
        elif now - self._seen_at > 2 * HEARTBEAT_S:
            self._logger.info("stream %s: no heartbeat, pulling again", self._stream)
            self._seen_at = now
            self._restart(pause=False)
            self._check("it is silent")

    # --- is it still there? ------------------------------------------------------------------------------------------

    def _check(self, why: str) -> None:
        if self._checking is None or self._checking.done():
            self._checking = self._loop.create_task(self._look(why))

    async def _look(self, why: str) -> None:
        """End the subscription if its stream or consumer is gone."""
        try:
            info = await self._api.consumer_info(self._stream, self.consumer)
        except StreamNotFound as error:
            self._on_end(error)
            return
        except EdaError as error:
            self._logger.info("consumer %s of %s: %s, and asking failed: %s", self.consumer, self._stream, why, error)
            return
        if info is None or info.get("created") != self._created:
            self._on_end(ConsumerDeleted(self._stream, self.consumer, why))
        elif self._dispatcher is not None and not self._stopped:
            self._restart(pause=True)


def _read_status(headers: bytes) -> tuple[str, int | None, int | None]:
    """Return (description in lower case, messages left of the pull, bytes left) of a status header block."""
    first, _, rest = headers.partition(b"\r\n")
    description = first.partition(b" ")[2][4:].decode("ascii", "replace").lower()
    left: dict[bytes, int] = {}
    for line in rest.split(b"\r\n"):
        key, _, value = line.partition(b":")
        number = value.strip()
        if number.isdigit() and len(number) < 19:
            left[key.strip().lower()] = int(number)
    return description, left.get(b"nats-pending-messages"), left.get(b"nats-pending-bytes")
