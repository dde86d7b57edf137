"""The parts of an open connection that a subscription uses."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from eda.dead_letters.store import DeadLetters
from eda.jetstream.api import Api
from eda.jetstream.streams import Streams
from eda.publishing.known_streams import KnownStreams
from eda.subscribing.durable_names import DurableNames
from eda.totals import Totals
from eda.transport.wire import Wire

__all__ = ["Services"]


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of an open connection that a subscription uses. The front door puts them together."""

    wire: Wire
    api: Api
    logger: logging.Logger
    streams: Streams
    known_streams: KnownStreams
    dead_letters: DeadLetters
    durable_names: DurableNames
    totals: Totals
