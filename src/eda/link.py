"""What an open connection consists of, and how it is put together."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from eda._wire import Wire
from eda.addresses import Addresses
from eda.api import Api
from eda.errors import Closed, ConnectError, Timeout
from eda.options import StreamOptions
from eda.single import SinglePublisher
from eda.streams import Streams
from eda.targets import Targets

__all__ = ["Link", "open_link"]


@dataclass(frozen=True, slots=True)
class Link:
    """The parts of an open connection."""

    wire: Wire
    api: Api
    streams: Streams
    targets: Targets
    single: SinglePublisher


async def open_link(
    addresses: Addresses,
    security: dict[str, Any],
    *,
    domain: str | None,
    client: str,
    logger: logging.Logger,
    timeout_s: float,
    stream_defaults: StreamOptions,
    auto_create: bool,
) -> Link:
    """Connect, and put the parts together. Raises ConnectError, NotSupported. Cancelled, it leaves nothing behind."""
    given = {"user": addresses.user, "password": addresses.password, "token": addresses.token}
    options = {key: value for key, value in given.items() if value is not None} | security
    wire = Wire(logger)
    try:
        deadline = time.monotonic() + timeout_s
        await wire.open(addresses.urls, timeout_s=timeout_s, name=client, **options)
        api = Api(wire, domain)
        await api.look(max(deadline - time.monotonic(), 0.1))
        streams = Streams(api)
        targets = Targets(wire, api, streams, stream_defaults, auto_create=auto_create)
        single = SinglePublisher(wire, client, logger, targets.recover)
        await single.open()
    except BaseException as error:
        await wire.shut()
        if isinstance(error, Timeout | Closed):
            raise ConnectError(str(addresses), str(error)) from error
        raise
    return Link(wire, api, streams, targets, single)
