"""Deliveries of a shared consumer that this member's own filter does not want.

A member acknowledges such a delivery, because the server would deliver it again and again. But another member may have
widened the consumer's filter meanwhile, and then the acknowledgement would lose an event that the other member wants.
So a member looks at the consumer before it acknowledges such a delivery. If the member's own filter no longer
covers the consumer's filter, the member gives the delivery back and is suspended.

In a packed stream, nearly each pack may have events that the filter does not want. The member handles the others, and
the pack waits for a look as well before it is acknowledged. So looks are made at most every 20 ms.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from eda.errors import Closed, EdaError
from eda.handling._dispatch import Dispatcher
from eda.jetstream.subjects import covers
from eda.subscribing.filters import shared_filter

__all__ = ["CHECK_PAUSE_S", "UnwantedDeliveries"]

CHECK_PAUSE_S = 0.5  # between two attempts to look at the consumer
LOOK_EVERY_S = 0.02  # one look decides about all deliveries before it


class UnwantedDeliveries:
    """Deliveries that the member's filter does not want, until it is known whether they may be acknowledged.

    `look` returns the consumer as the server describes it, or None if it is gone. `on_narrow(theirs)` is called when
    the consumer's filter, `theirs`, is not covered by the member's own filter: then other members want the deliveries.
    `on_failed(error)` is called when an unexpected error occurs.
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
        # Acknowledgement subjects by stream sequence; empty for a pack of which other events are held. The server's
        # max_ack_pending bounds them.
        self._replies: dict[int, bytes] = {}
        self._undecided: dict[int, bytes] = {}  # the same, for deliveries that wait for the look that is under way
        self._deciding: asyncio.Task[None] | None = None
        self._looked_at = -LOOK_EVERY_S  # on the loop's clock
        self._stopped = False

    def add(self, dispatcher: Dispatcher, seq: int, reply: bytes) -> None:
        """Take a delivery. It is acknowledged or given back after a look at the consumer."""
        self._replies[seq] = reply
        if not self._stopped and (self._deciding is None or self._deciding.done()):
            self._deciding = asyncio.get_running_loop().create_task(self._decide_or_fail(dispatcher))

    async def finish(self, dispatcher: Dispatcher, timeout_s: float) -> None:
        """Decide about the deliveries that are left. Give back those about which no look decides in time.

        Call this when no more deliveries come. Without the last look, packs whose events are handled would be given
        back. Without giving back, other members would have to wait for the leases.
        """
        deciding = self._deciding
        try:
            if deciding is not None and not deciding.done() and timeout_s > 0:
                await asyncio.wait({deciding}, timeout=timeout_s)
        finally:
            self._stopped = True
            if deciding is not None:
                deciding.cancel()
            for seq, reply in sorted((self._undecided | self._replies).items()):
                dispatcher.intake.give_back(seq, reply)
            self._undecided, self._replies = {}, {}

    async def _decide_or_fail(self, dispatcher: Dispatcher) -> None:
        try:
            await self._decide(dispatcher)
        except Exception as error:
            self._on_failed(error)

    async def _decide(self, dispatcher: Dispatcher) -> None:
        """Acknowledge or give back all deliveries. One look at the consumer decides about all that came before it."""
        loop = asyncio.get_running_loop()
        while self._replies:
            await asyncio.sleep(self._looked_at + LOOK_EVERY_S - loop.time())
            self._looked_at = loop.time()
            asked, self._replies = self._replies, {}
            self._undecided = asked
            try:
                info = await self._look()
            except Closed:
                return
            except EdaError as error:
                self._logger.debug("looking at the filter of a shared consumer failed, trying again: %s", error)
                self._replies, self._undecided = asked | self._replies, {}
                await asyncio.sleep(CHECK_PAUSE_S)
                continue
            if info is None:
                return  # the consumer is gone: the source notices that, too, and ends the subscription
            if self._stopped:
                return  # wait_for of Python 3.11, in nats-py's requests, may have swallowed the cancellation
            self._undecided = {}
            theirs = shared_filter(info["config"])
            if covers(self._mine, theirs):
                # No member wants more than the consumer's filter, and our filter covers that. So nobody wants these
                # deliveries, which the server made before it answered.
                for seq, reply in asked.items():
                    dispatcher.intake.pass_over(seq, reply)
            else:
                for seq, reply in (asked | self._replies).items():
                    dispatcher.intake.give_back(seq, reply)
                self._replies.clear()
                self._on_narrow(theirs)
