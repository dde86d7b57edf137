from collections.abc import Callable
from typing import final

from eda.publishing._publisher_core import CoreHost, PublisherCore
from eda.publishing._stream_sender import Destination
from eda.transport._outbound import Outbound

__all__ = ["PackingCore"]

@final
class PackingCore(PublisherCore):
    linger_runs: bool
    def __init__(
        self,
        host: CoreHost,
        out: Outbound,
        destination: Destination,
        inbox: bytes,
        client: str,
        *,
        max_events: int,
        max_pack_bytes: int,
        compress: Callable[[memoryview], bytes] | None = None,
        dedup: bool,
        wants_acks: bool,
        max_pending: int,
        max_bytes: int,
        give_up_s: float,
        loop: object = None,
        running_loop: Callable[[], object] | None = None,
    ) -> None: ...
    def open_s(self) -> float: ...
