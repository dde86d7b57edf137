"""What the server answers to a publish: stored, refused for good, or not now."""

from __future__ import annotations

from typing import Annotated

import msgspec

from eda.errors import ServerError, is_transient
from eda.server_codes import ATOMIC_BATCHES_EXCEEDED, FAST_BATCH_DISABLED, FAST_BATCH_UNKNOWN, FAST_BATCHES_EXCEEDED

__all__ = ["Answer", "Refused", "decode_answer"]

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Refused(msgspec.Struct):
    """A refusal, in the server's own codes."""

    code: _Count = 0
    err_code: _Count = 0
    description: str = ""

    @property
    def is_transient(self) -> bool:
        """Whether the same publish may succeed later."""
        return is_transient(self.code, self.err_code, self.description)

    @property
    def bars_batches(self) -> bool:
        """Whether the stream does not take fast-ingest batches."""
        return self.err_code == FAST_BATCH_DISABLED

    @property
    def bars_more_batches(self) -> bool:
        """Whether there are as many batches as the server takes."""
        return self.err_code in (ATOMIC_BATCHES_EXCEEDED, FAST_BATCHES_EXCEEDED)

    @property
    def is_echo(self) -> bool:
        """Whether this is no verdict: the batch of the event had ended before."""
        return self.err_code == FAST_BATCH_UNKNOWN

    def as_error(self, stream: str) -> ServerError:
        """Return the error that a publish to `stream` fails with."""
        return ServerError(self.code, self.err_code, self.description, operation=f"publish to {stream}")


class Answer(msgspec.Struct):
    """Any answer: an acknowledgement (of one event or, with `count`, a batch), a flow message (`type`), a refusal."""

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
    """Return the answer in a message with this status (0: none); None when it is no answer at all."""
    if status == 503:
        return Answer(error=Refused(503, 0, "no responders"))
    try:
        answer = _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return answer if answer.error or answer.stream or answer.type else None
