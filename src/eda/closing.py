"""Closing what uses a connection, in order: handlers, publishers, batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from eda.errors import PublishFailed
from eda.link import Link
from eda.publisher import Publisher
from eda.subscription import Subscription

__all__ = ["close_users", "drain"]

CLOSE_TIMEOUT_S = 30.0


async def close_users(
    subscriptions: Iterable[Subscription],
    publishers: Iterable[Publisher],
    batches: Iterable[asyncio.Future[None]],
    logger: logging.Logger,
) -> None:
    """Close what uses a connection, each kind within 30 s; logs what was left."""
    subscriptions = list(subscriptions)
    # Handlers that are running may publish until they are done.
    closing = [asyncio.ensure_future(each.close()) for each in subscriptions]
    if closing:
        _, late = await asyncio.wait(closing, timeout=CLOSE_TIMEOUT_S)
        if late:
            logger.warning("closing the connection: %d subscriptions did not close in %g s", len(late), CLOSE_TIMEOUT_S)
            for each in subscriptions:
                each.cancel_handlers()
            await asyncio.wait(late, timeout=1.0)
    for publisher in list(publishers):
        try:
            await asyncio.wait_for(publisher.flush(), CLOSE_TIMEOUT_S)
        except (PublishFailed, TimeoutError) as error:
            logger.warning("closing the connection: publisher to %s: %s", publisher.stream, error)
        await publisher.close()
    batches = list(batches)
    if batches:
        await asyncio.wait(batches, timeout=CLOSE_TIMEOUT_S)


async def drain(link: Link) -> None:
    """Take no more publishes, and wait for those under way, at most 30 s."""
    link.wire.closing = True
    await link.single.drain(CLOSE_TIMEOUT_S)
