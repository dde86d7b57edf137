"""ConnAdmin: what a connection offers to those who operate a system: kept subscriptions and dead letters."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from eda._event import Event
from eda.dead_letters.dead_letter import DeadLetter
from eda.dead_letters.listing import DeadLetterReader, Selection
from eda.errors import ConfigError
from eda.handlers import AnyHandler
from eda.health import Health
from eda.jetstream.subjects import check_stream_name
from eda.lifetime import Lifetime
from eda.options import SubscriptionOptions
from eda.subscribing.behind import Lag, SubscriptionInfo
from eda.subscribing.browsing import browse
from eda.subscribing.details import Details, SubscriptionDetails
from eda.subscribing.kept import KeptSubscriptions, SubscriptionMove
from eda.subscribing.lag import Lags, lags_of
from eda.subscribing.remaining import Remaining
from eda.subscribing.spec import spec_of
from eda.subscribing.subscription import Subscription
from eda.subscribing.target import Target

if TYPE_CHECKING:
    from eda.diagnosis.finding import Finding

__all__ = ["ConnAdmin"]

BROWSED_EVENTS = 1024  # in one list of `browse`
BROWSED_BYTES = 8 * 2**20
MAX_PAUSE_S = 1e9  # a reader of `browse` may take this long for one list


class ConnAdmin:
    """The methods of `Conn` for operators. The command line uses them."""

    _lifetime: Lifetime
    _health: Health

    # --- health ------------------------------------------------------------------------------------------------------

    async def health(self, *, timeout_s: float = 1.0) -> dict[str, Any]:
        """Return how well the connection and all that it runs are, as a dict for `json.dumps` and a health endpoint.

        "status" is "ok", "degraded" (something does not do its work) or "down" (no connection, or a server that does
        not answer). "problems" says why, and "unknown" what could not be found out. docs/health.md lists all fields.

        It asks the server for a round trip and for the lags, and waits at most `timeout_s` (0 to 60) seconds for the
        answers. What is not known by then is None. It works in every state: also before the connection is open, while
        it is lost, and after `close`. It never asks a database. Concurrent calls share the requests.

        Raises ConfigError for another `timeout_s`, and in another event loop or thread. If the caller is cancelled,
        nothing changes.
        """
        return await self._health.check(timeout_s)

    # --- subscriptions -----------------------------------------------------------------------------------------------

    async def subscriptions(self, stream: str | None = None, *, standbys: bool = True) -> list[SubscriptionInfo]:
        """Return the kept subscriptions of a stream, sorted by name: their positions, their lags, and their holders.

        Without a stream, return those of all streams, sorted by stream and name. Cursors of deleted streams are among
        them; their lag is None. Subscriptions without a running member are listed as well. Nothing changes on the
        server. If any subscription has a holder, the call takes half a second, because it waits for the standbys to
        answer. With `standbys=False` it does not ask them, and their number is None.

        Projections keep their positions in their database, so they are not listed.

        Raises StreamNotFound, ServerError (code 403: the server forbids a request that is needed), Timeout, Closed.
        """
        services = self._lifetime.require_open()
        lags = Lags(services.wire, services.api)
        return await (lags.read_all(standbys=standbys) if stream is None else lags.read(stream, standbys=standbys))

    async def subscription(self, stream: str, name: str) -> SubscriptionDetails | None:
        """Return one kept subscription with its settings; None if the server keeps no position under this name.

        Nothing changes on the server. If the subscription has a holder, the call takes half a second.

        Raises ConfigError if its cursor can't be read; StreamNotFound, ServerError, Timeout, Closed.
        """
        services = self._lifetime.require_open()
        return await Details(services.wire, services.api).read(stream, name)

    async def move_subscription(self, stream: str, name: str, *, to: Target, force: bool = False) -> SubscriptionMove:
        """Move the kept position of a subscription forward or back, so that `to` is the next event that it gets.

        `to` is a stream sequence, an aware datetime (the first event that was stored then or later), "first", or "end"
        (the next new event). For an ordered subscription it may also be the place of an event in a pack, such as
        "7.3". If the event is gone, the first one after it is next. The event after the last one may be
        named; a later one is refused.

        A subscription with members that are open is refused, unless `force` is True. Then the members of a shared
        subscription end with ConsumerDeleted, and later members start at the new position. The members of an ordered
        subscription go on at the new position: the call waits for 5 s, until no handler that began before can run.

        The position is moved in one step: after an error or a cancellation it is either the old or the new one. If the
        program ends within the 5 s, the members go on 5 s later, and the next event counts one attempt more.

        Raises ConfigError: there is no such subscription, it has members, its position can't be moved (a stream with
        retention other than "limits", a consumer that is not durable or was made by another program), or `to` is wrong.
        Raises StreamNotFound, ServerError, Timeout, Closed.
        """
        return await self._kept().move(stream, name, to, force=force)

    async def delete_subscription(self, stream: str, name: str, *, force: bool = False) -> bool:
        """Forget the position of a subscription: the next member starts as its options say.

        Return False if the server keeps no such position. A position in a stream that does not exist any more can be
        deleted as well. A subscription with members that are open is refused, unless `force` is True. Then its members
        end with ConsumerDeleted.

        Raises ConfigError if it has members; StreamNotFound, ServerError, Timeout, Closed.
        """
        return await self._kept().delete(stream, name, force=force)

    def _kept(self) -> KeptSubscriptions:
        services = self._lifetime.require_open()
        return KeptSubscriptions(services.wire, services.api, services.logger, services.known_streams.bucket_for)

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
        ConsumerDeleted if the stream was deleted and made again, ServerError (code 403: the server forbids a request,
        such as the question to the stream's leader whether the end is reached), Timeout, Closed.
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

    # --- places in streams -------------------------------------------------------------------------------------------

    async def sequence_at(self, stream: str, time: datetime) -> int:
        """Return the sequence of the first message that the stream stored at `time` (an aware datetime) or later.

        If there is none, it is the sequence that the next message will get. Nothing changes on the server.

        Raises ConfigError, StreamNotFound, ServerError, Timeout, Closed.
        """
        services = self._lifetime.require_open()
        stream = check_stream_name(stream)
        if not isinstance(time, datetime) or time.tzinfo is None:
            raise ConfigError(f"time must be an aware datetime, not {time!r:.100}", argument="time")
        return await Remaining(services.wire, services.api).sequence_at(stream, time)

    async def lags(self) -> dict[tuple[str, str], Lag]:
        """Ask the server how far the open subscriptions of this connection are behind, by stream and name.

        The keys are those of `stats().subscriptions`. If several subscriptions have the same key, the largest lag
        counts. A lag that the server does not tell is unknown. Raises Closed.
        """
        self._lifetime.require_open()
        return await lags_of(self._lifetime.totals.open_subscriptions())

    # --- dead letters ------------------------------------------------------------------------------------------------

    def dead_letters(
        self,
        stream: str,
        name: str | None = None,
        *,
        reason: str | None = None,
        since: datetime | None = None,
        sequences: Collection[int] | None = None,
        limit: int | None = None,
        dead_letter: str | None = None,
        others: bool = False,
    ) -> AsyncGenerator[DeadLetter, None]:
        """Read the dead letters of a stream: `async for letter in conn.dead_letters(stream)`.

        They come in the order in which they were stored; letters that are stored meanwhile are left out. Nothing
        changes on the server. `name`: only those of this subscription. `reason`: only those with this reason. `since`:
        only those that were given up at this time (an aware datetime) or later. `sequences`: only those with these
        sequences in the dead-letter stream. `limit`: at most so many. `dead_letter`: the dead-letter stream (None:
        `{stream}-dead`). `others=True`: also letters of other streams that are in the same dead-letter stream, and
        messages that are not dead letters.

        If a payload was too large for its letter, it is read from `stream`. At most 16 letters are in memory.

        Raises ConfigError, Closed. The iteration raises StreamNotFound (there is no dead-letter stream: no event was
        given up yet), ServerError, Timeout, Closed.
        """
        reader = DeadLetterReader(self._lifetime.require_open().api)
        return reader.read(
            Selection(
                stream,
                name,
                reason=reason,
                since=since,
                sequences=sequences,
                limit=limit,
                dead_letter=dead_letter,
                others=others,
            )
        )

    async def drop_dead(
        self,
        stream: str,
        name: str | None = None,
        *,
        reason: str | None = None,
        sequences: Collection[int] | None = None,
        limit: int | None = None,
        dead_letter: str | None = None,
    ) -> int:
        """Remove the dead letters of a stream for ever, one after the other, and return how many.

        The arguments choose letters as those of `dead_letters` do. Without `name`, `reason` and `sequences`, all
        letters of the stream are removed. Letters that are stored meanwhile stay, and so do all other messages.

        Raises ConfigError, also if the dead-letter stream allows nobody to delete a message; StreamNotFound,
        ServerError, Timeout, Closed. After an error or a cancellation, the earlier letters are removed already.
        """
        chosen = Selection(stream, name, reason=reason, sequences=sequences, limit=limit, dead_letter=dead_letter)
        return await DeadLetterReader(self._lifetime.require_open().api).drop(chosen)

    async def replay_dead(
        self,
        stream: str,
        name: str,
        *,
        limit: int | None = None,
        dead_letter: str | None = None,
        sequences: Collection[int] | None = None,
    ) -> int:
        """Publish the dead letters of subscription `name` back into `stream`, for this subscription alone.

        Returns how many were published: at most `limit`, in their order. Each letter is removed from the dead-letter
        stream (None: `{stream}-dead`) when `stream` has acknowledged it. With `sequences`, only the letters with these
        sequences in the dead-letter stream are published. Letters that are stored while this runs, and
        messages that are not events, stay there. A replayed event has a new id; its `cause` and everything else
        stay as they were. An event of a pack is published in a message of its own. A pack that could not be read, and
        can be read now, is published as a whole: it counts as one, and its events keep their ids.

        Raises ConfigError; StreamNotFound for either stream; ServerError, Timeout, Closed. After an error or a
        cancellation, the earlier letters are replayed already. If it ended between the two steps of a letter, the event
        is published and the letter is still there: replayed again within the stream's duplicate window, the event is
        not stored twice, because its new id is made of the letter's sequence.
        """
        replay = self._lifetime.require_open().replay
        return await replay.replay(stream, name, limit=limit, dead_letter=dead_letter, sequences=sequences)

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
