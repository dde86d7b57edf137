from collections.abc import Callable
from typing import Any, final

from eda._event import Event
from eda.publishing._stream_sender import Destination, StreamSender
from eda.publishing._window import PublishWindow
from eda.transport._outbound import Outbound
from eda.transport._waits import Wait, Waits

__all__ = ["LastSender", "MessageSender"]

@final
class LastSender: ...

@final
class MessageSender(StreamSender):
    def __init__(
        self,
        window: PublishWindow,
        out: Outbound,
        inbox: bytes,
        client: str,
        on_answer: Callable[[int, int, bytes], None],
        waits: Waits | None = None,
        arm: Callable[[float], object] | None = None,
        resend_s: float = 5.0,
        last: LastSender | None = None,
    ) -> None: ...
    is_closed: bool
    timer_runs: bool
    @property
    def is_ready(self) -> bool: ...
    def send(self, destination: Destination, event: Event, give_up_s: float) -> tuple[str, Wait[int]]: ...
    def send_message(
        self, destination: Destination, subject: bytes, headers: bytes, envelope: bytes, give_up_s: float
    ) -> Wait[int]: ...
    def publish_message(
        self,
        destination: Destination,
        subject: bytes,
        headers: bytes,
        envelope: bytes,
        waiter: Wait[Any],
        resend_s: float,
        give_up_s: float,
    ) -> int: ...
    def is_of_store(self, seq: int) -> bool: ...
