"""ConnAdmin: what a connection offers to those who operate a system: kept subscriptions and dead letters."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from eda._event import Event
from eda.errors import ConfigError
from eda.handlers import AnyHandler
from eda.jetstream.subjects import check_stream_name
from eda.lifetime import Lifetime
from eda.options import SubscriptionOptions
from eda.subscribing.browsing import browse
from eda.subscribing.lag import Lags, SubscriptionInfo
from eda.subscribing.spec import spec_of
from eda.subscribing.subscription import Subscription

if TYPE_CHECKING:
    from eda.diagnosis.finding import Finding

__all__ = ["ConnAdmin"]

BROWSED_EVENTS = 1024  # in one list of `browse`
BROWSED_BYTES = 8 * 2**20
MAX_PAUSE_S = 1e9  # a reader of `browse` may take this long for one list


class ConnAdmin:
    """The methods of `Conn` for operators. The command line uses them."""

    _lifetime: Lifetime

    # --- subscriptions -----------------------------------------------------------------------------------------------

    async def subscriptions(self, stream: str) -> list[SubscriptionInfo]:
        """Return the kept subscriptions of a stream, sorted by name: their positions, their lags, and their holders.

        Subscriptions without a running member are listed as well. Nothing changes on the server. If any subscription
        has a holder, the call takes half a second, because it waits for the standbys to answer.

        Raises StreamNotFound, ServerError (code 403: the server forbids a request that is needed), Timeout, Closed.
        """
        services = self._lifetime.require_open()
        return await Lags(services.wire, services.api).read(stream)

    # --- events ------------------------------------------------------------------------------------------------------

    async def browse(
        self,
        stream: str,
        *,
        start: int | datetime | None = None,
        backfill: bool = True,
        types: Collection[str] | None = None,
        aggregate: str | None = None,
        follow: bool = False,
    ) -> AsyncGenerator[list[Event], None]:
        """Read the events of a stream in order, in lists, and leave no trace: `async for events in conn.browse(...)`.

        Nothing is acknowledged, kept or removed, in streams of every retention. Upcasters and middleware don't run.
        `start`: the stream sequence (from 1), or the time (an aware datetime), at which to begin. Without it, reading
        begins with the first event, or with the next new one if `backfill` is False. `types`, `aggregate`: only events
        of these types, of this aggregate. Without `follow` it ends after the last event that is stored when it begins.
        With `follow` it goes on with new events, also after a reconnect, until the stream is deleted or the connection
        is closed. A list has at most 1,024 events, and about 8 MiB are held at most. Messages that are not events, and
        dead letters that were replayed for a subscription, are skipped; the former are logged.

        Streams with another retention than `limits` are read without a consumer, because a consumer would remove
        events. That is slower, and an event that is acknowledged within a quarter of a second may be missed.

        Close it with `contextlib.aclosing` if the loop may be left early. Raises ConfigError, StreamNotFound,
        ConsumerDeleted if the stream was deleted and made again, ServerError, Timeout, Closed.
        """
        lifetime = self._lifetime
        services = lifetime.require_open()
        options = SubscriptionOptions(
            start=start,
            backfill=backfill and start is None,
            types=types,
            aggregate=aggregate,
            batch=BROWSED_EVENTS,
            prefetch=8 * BROWSED_EVENTS,
            prefetch_bytes=BROWSED_BYTES,
            timeout_s=MAX_PAUSE_S,
            circuit=None,
            dead_letter=None,
        )
        spec = spec_of(check_stream_name(stream), options, None)

        def subscription(handler: AnyHandler, each: SubscriptionOptions) -> Subscription:
            return Subscription(
                services,
                replace(spec, options=each),
                handler,
                lifetime.admit_subscription,
                lifetime.subscriptions.discard,
            )

        async with aclosing(browse(services, options, spec.stream, subscription, follow=follow)) as reading:
            async for events in reading:
                yield events

    # --- dead letters ------------------------------------------------------------------------------------------------

    async def replay_dead(
        self, stream: str, name: str, *, limit: int | None = None, dead_letter: str | None = None
    ) -> int:
        """Publish the dead letters of subscription `name` back into `stream`, for this subscription alone.

        Returns how many were published: at most `limit`, in their order. Each letter is removed from the dead-letter
        stream (None: `{stream}-dead`) when `stream` has acknowledged it. Letters that are stored while this runs, and
        messages that are not events, stay there. A replayed event has a new id; its `cause` and everything else
        stay as they were. An event of a pack is published in a message of its own. A pack that could not be read, and
        can be read now, is published as a whole: it counts as one, and its events keep their ids.

        Raises ConfigError; StreamNotFound for either stream; ServerError, Timeout, Closed. After an error or a
        cancellation, the earlier letters are replayed already.
        """
        replay = self._lifetime.require_open().replay
        return await replay.replay(stream, name, limit=limit, dead_letter=dead_letter)

    # --- diagnosis ---------------------------------------------------------------------------------------------------

    async def diagnose(self, streams: Iterable[str] | None = None) -> list[Finding]:
        """Return what will bite: findings about the server, the account, and streams with their subscriptions.

        `streams`: the names of the streams to examine; None: all streams that hold events of eda. Nothing changes on
        the server, and no consumer is created. The call takes half a second if any ordered subscription has a holder.
        What the credentials may not read is a finding of the check "unread".

        Raises ConfigError; StreamNotFound for a name without a stream; ServerError, Timeout, Closed.
        """
        from eda.diagnosis.diagnosis import diagnose

        services = self._lifetime.require_open()
        if streams is None:
            return await diagnose(services.api, None)
        if isinstance(streams, str):
            raise ConfigError(f"streams must be a list of names, not a str: write [{streams!r}]", argument="streams")
        return await diagnose(services.api, [check_stream_name(name) for name in streams])
