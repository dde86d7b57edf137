from typing import Any, final

from eda.publishing._stream_sender import Destination, StreamSender
from eda.transport._waits import Wait

__all__ = ["MessageSender"]

@final
class MessageSender(StreamSender):
    def publish_message(
        self,
        destination: Destination,
        subject: bytes,
        headers: bytes,
        envelope: bytes,
        waiter: Wait[Any],
        resend_s: float,
        give_up_s: float,
    ) -> None: ...
    def is_of_store(self, seq: int) -> bool: ...
