"""ConnAdmin: what a connection offers to those who operate a system: kept subscriptions and dead letters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from eda.errors import ConfigError
from eda.jetstream.subjects import check_stream_name
from eda.lifetime import Lifetime
from eda.subscribing.lag import Lags, SubscriptionInfo

if TYPE_CHECKING:
    from eda.diagnosis.finding import Finding

__all__ = ["ConnAdmin"]


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
