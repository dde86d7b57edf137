"""The server's answers to a publish: an acknowledgement, a flow message of a batch, or a refusal."""

from __future__ import annotations

from typing import Annotated

import msgspec

from eda.errors import ServerError, is_transient
from eda.server_codes import ATOMIC_BATCHES_EXCEEDED, FAST_BATCH_DISABLED, FAST_BATCH_UNKNOWN, FAST_BATCHES_EXCEEDED

__all__ = ["Answer", "Refused", "decode_answer"]

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Refused(msgspec.Struct):
    """A refusal, with the server's codes."""

    code: _Count = 0
    err_code: _Count = 0
    description: str = ""

    @property
    def is_transient(self) -> bool:
        """Return whether the same publish may succeed later."""
        return is_transient(self.code, self.err_code, self.description)

    @property
    def bars_batches(self) -> bool:
        """Return whether the stream does not accept fast-ingest batches."""
        return self.err_code == FAST_BATCH_DISABLED

    @property
    def bars_more_batches(self) -> bool:
        """Return whether the server has reached its limit of batches."""
        return self.err_code in (ATOMIC_BATCHES_EXCEEDED, FAST_BATCHES_EXCEEDED)

    @property
    def is_of_ended_batch(self) -> bool:
        """Return whether the event arrived after its batch had ended. Then the refusal is not about the event."""
        return self.err_code == FAST_BATCH_UNKNOWN

    def as_error(self, stream: str) -> ServerError:
        """Return the error with which a publish to `stream` fails."""
        return ServerError(self.code, self.err_code, self.description, operation=f"publish to {stream}")


class Answer(msgspec.Struct):
    """An acknowledgement of one event (or of a batch, with `count`), a flow message (`type`) or a refusal (`error`)."""

    type: str = ""
    error: Refused | None = None
    stream: str = ""
    domain: str = ""
    seq: _Count = 0
    batch: str = ""
    count: _Count = 0
    msgs: _Count = 0
    duplicate: bool = False


_decode = msgspec.json.Decoder(Answer).decode


def decode_answer(status: int, payload: bytes) -> Answer | None:
    """Return the answer in a message; None if the message is not an answer. `status` is 0 if the message has none."""
    if status == 503:
        return Answer(error=Refused(503, 0, "no responders"))
    try:
        answer = _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return answer if answer.error or answer.stream or answer.type else None
