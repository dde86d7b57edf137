"""The filter of a shared consumer: who may change it, and what a member does whose own filter is narrower.

A member acknowledges what its filter does not want, because the consumer would deliver it again for ever. That loses
an event when another member has widened the consumer's filter meanwhile. So a member looks at the consumer before it
acknowledges such an event, and stands by when the consumer's filter is no longer its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from eda.errors import Closed, EdaError
from eda.handling._dispatch import Dispatcher
from eda.jetstream.consumer_settings import subjects_of
from eda.jetstream.subjects import covers

__all__ = ["FILTER_NOTE", "LOOK_PAUSE_S", "Unwanted", "kept_filter"]

FILTER_NOTE = "eda-filter"  # consumer metadata
LOOK_PAUSE_S = 0.5  # between two looks at the consumer


def kept_filter(config: dict[str, Any]) -> list[str]:
    """Return the subjects that a consumer's members want; empty: all.

    The server's filter may be left out, since the client filters, too. So what was asked for is noted apart.
    """
    noted: list[str] = (config.get("metadata") or {}).get(FILTER_NOTE, "").split()
    return noted or subjects_of(config)


class Unwanted:
    """Deliveries that the member's filter does not want, until it is known whether they may be acknowledged.

    `look` returns the consumer as it is, None when it is gone. `on_narrow(theirs)` is called when the consumer's
    filter, `theirs`, is not covered by the member's own: such events are for other members. `on_failed(error)` is
    called when an error that nobody expected ends this.
    """

    def __init__(
        self,
        logger: logging.Logger,
        mine: list[str],
        look: Callable[[], Awaitable[dict[str, Any] | None]],
        on_narrow: Callable[[list[str]], None],
        on_failed: Callable[[Exception], None],
    ) -> None:
        self._logger = logger
        self._mine = mine
        self._look = look
        self._on_narrow = on_narrow
        self._on_failed = on_failed
        # Acknowledgement subjects by stream sequence. The server's max_ack_pending bounds them.
        self._replies: dict[int, bytes] = {}
        self._asked: dict[int, bytes] = {}  # those that the look under way is for
        self._asking: asyncio.Task[None] | None = None
        self._stopped = False

    def add(self, dispatcher: Dispatcher, seq: int, reply: bytes) -> None:
        """Take a delivery; it is acknowledged or given back soon."""
        self._replies[seq] = reply
        if not self._stopped and (self._asking is None or self._asking.done()):
            self._asking = asyncio.get_running_loop().create_task(self._settle_or_fail(dispatcher))

    def stop(self) -> None:
        """Settle nothing more."""
        self._stopped = True
        if self._asking is not None:
            self._asking.cancel()

    def give_back(self, dispatcher: Dispatcher) -> None:
        """Give back what is not settled, after `stop`: who wants it shall not wait for its lease to end."""
        for _, reply in sorted((self._asked | self._replies).items()):
            dispatcher.give_back_delivery(reply)
        self._asked, self._replies = {}, {}

    async def _settle_or_fail(self, dispatcher: Dispatcher) -> None:
        try:
            await self._settle(dispatcher)
        except Exception as error:
            self._on_failed(error)

    async def _settle(self, dispatcher: Dispatcher) -> None:
        while self._replies:
            asked, self._replies = self._replies, {}
            self._asked = asked
            try:
                info = await self._look()
            except Closed:
                return
            except EdaError as error:
                self._logger.info("could not look at a consumer's filter: %s", error)
                self._replies, self._asked = asked | self._replies, {}
                await asyncio.sleep(LOOK_PAUSE_S)
                continue
            if info is None:
                return  # the member ends, and learns it elsewhere
            if self._stopped:
                return  # Python 3.11's wait_for, in nats-py's requests, may swallow the cancellation
            self._asked = {}
            theirs = kept_filter(info["config"])
            if covers(self._mine, theirs):
                # It was delivered before this look, under a filter that was ours.
                for reply in asked.values():
                    dispatcher.pass_over(reply)
            else:
                for reply in (asked | self._replies).values():
                    dispatcher.give_back_delivery(reply)
                self._replies.clear()
                self._on_narrow(theirs)
