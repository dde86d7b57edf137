"""A wire to a server, without the rest of a connection."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eda.transport.addresses import parse_addresses
from eda.transport.wire import Wire

__all__ = ["opened"]


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Wire]:
    """Open a wire to the server, without the rest of a connection."""
    addresses = parse_addresses(url)
    options = {"token": addresses.token} if addresses.token else {}
    wire = Wire(logging.getLogger("eda"))
    await wire.open(addresses.urls, timeout_s=5.0, **options)
    try:
        yield wire
    finally:
        await wire.close_within()
