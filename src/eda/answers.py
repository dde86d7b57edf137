"""What the server answers to a publish: stored, refused for good, or not now."""

from __future__ import annotations

import msgspec

from eda.errors import ServerError

__all__ = ["Answer", "Refused", "decode_answer"]

# Busy, electing, no responders, queue full, store failed: may be over soon. Source: server/errors.json of nats-server.
_RETRY_CODES = frozenset({408, 429, 503})
_RETRY_ERR_CODES = frozenset({10008, 10077, 10167})


class Refused(msgspec.Struct):
    """A refusal, in the server's own codes."""

    code: int = 0
    err_code: int = 0
    description: str = ""

    @property
    def may_pass(self) -> bool:
        """Whether the same publish may succeed later."""
        if self.err_code == 10077 and self.description.startswith("maximum "):
            return False  # the stream is full and takes no new events
        return self.code in _RETRY_CODES or self.err_code in _RETRY_ERR_CODES

    def as_error(self, stream: str) -> ServerError:
        """Return the error that a publish to `stream` fails with."""
        return ServerError(self.code, self.err_code, self.description, operation=f"publish to {stream}")


class Answer(msgspec.Struct):
    """Any answer: an acknowledgement (of one event or, with `count`, a batch), a flow message (`type`), a refusal."""

    type: str = ""
    error: Refused | None = None
    stream: str = ""
    seq: int = 0
    count: int = 0
    msgs: int = 0


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
