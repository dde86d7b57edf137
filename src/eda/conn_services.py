"""The objects that an open connection consists of, and how they are made."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from eda.dead_letters.replay import Replay
from eda.dead_letters.store import DeadLetters
from eda.dead_letters.suitable_streams import SuitableStreams
from eda.errors import Closed, ConnectError, Timeout
from eda.jetstream.api import Api
from eda.jetstream.streams import Streams
from eda.options import StreamOptions
from eda.publishing.known_streams import KnownStreams
from eda.publishing.stream_publisher import StreamPublishers
from eda.subscribing.durable_names import DurableNames
from eda.subscribing.services import Services
from eda.totals import Totals
from eda.transport.addresses import Addresses
from eda.transport.wire import Wire

__all__ = ["ConnServices", "ConnectOptions", "connect_services"]


@dataclass(frozen=True, slots=True)
class ConnServices(Services):
    """The services of an open connection: those that subscriptions use, and those that only `Conn` uses."""

    stream_publishers: StreamPublishers
    replay: Replay


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """The options of `connect` that are needed to open the connection. `security` holds nats-py's options."""

    domain: str | None
    security: dict[str, Any] = field(repr=False)
    timeout_s: float
    auto_create: bool
    stream_defaults: StreamOptions


async def connect_services(
    addresses: Addresses, client: str, logger: logging.Logger, options: ConnectOptions, totals: Totals
) -> ConnServices:
    """Connect to a server and return the services of the connection.

    `totals` gets the counts of what the connection does.

    Raises ConnectError, NotSupported. If the caller is cancelled, nothing stays open.
    """
    given = {"user": addresses.user, "password": addresses.password, "token": addresses.token}
    security = {key: value for key, value in given.items() if value is not None} | options.security
    wire = Wire(logger)
    try:
        deadline = time.monotonic() + options.timeout_s
        await wire.open(addresses.urls, timeout_s=options.timeout_s, name=client, **security)
        api = Api(wire, options.domain, client)
        await api.discover(max(deadline - time.monotonic(), 0.1))
        streams = Streams(api)
        known_streams = KnownStreams(api, streams, logger, options.stream_defaults, auto_create=options.auto_create)
    except BaseException as error:
        await wire.close_within(0)  # nothing was published yet, so there is nothing to wait for
        if isinstance(error, Timeout | Closed):
            raise ConnectError(str(addresses), str(error)) from error
        raise
    wire.on_restored.append(totals.note_reconnect)
    totals.others = known_streams.stream_publishers.stats
    dead_letters = DeadLetters(wire, api, SuitableStreams(wire, api, known_streams.ensure, streams.info))
    return ConnServices(
        wire=wire,
        api=api,
        logger=logger,
        streams=streams,
        known_streams=known_streams,
        dead_letters=dead_letters,
        durable_names=DurableNames(),
        totals=totals,
        stream_publishers=known_streams.stream_publishers,
        replay=Replay(wire, api, logger),
    )
