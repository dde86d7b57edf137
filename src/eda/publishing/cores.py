"""Makes the core of a publisher, with packs or without."""

from __future__ import annotations

import asyncio
from typing import Any

from eda.compression import compressor
from eda.publishing._packing_core import PackingCore
from eda.publishing._publisher_core import PublisherCore
from eda.publishing._stream_sender import Destination
from eda.publishing.publisher_options import PublisherOptions
from eda.publishing.pump import Pump
from eda.transport.wire import Wire

__all__ = ["new_core"]


def new_core(
    pump: Pump,
    wire: Wire,
    destination: Destination,
    inbox: str,
    client: str,
    options: PublisherOptions,
    *,
    wants_acks: bool,
    give_up_s: float,
) -> PublisherCore:
    """Return the core of a publisher with these options. Its events fail `give_up_s` seconds after they are accepted.

    Raises ConfigError if the package for the compression of packs is missing.
    """
    pack = options.pack
    of_packs: dict[str, Any] = {}
    if pack is not None:
        compress = None if pack.compression is None else compressor(pack.compression)
        of_packs = {"max_events": pack.max_events, "max_pack_bytes": pack.max_bytes, "compress": compress}
    return (PublisherCore if pack is None else PackingCore)(
        pump,
        wire.out,
        destination,
        f"{inbox}.".encode(),
        client,
        dedup=options.dedup,
        wants_acks=wants_acks,
        max_pending=options.window_events,
        max_bytes=options.window_bytes,
        give_up_s=give_up_s,
        loop=wire.loop,
        running_loop=asyncio._get_running_loop,
        **of_packs,
    )
