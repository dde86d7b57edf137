"""Publishes one message with headers, once. If that fails, the caller decides whether to call it again."""

from __future__ import annotations

import asyncio
from time import monotonic

from nats.errors import ConnectionReconnectingError, NoRespondersError
from nats.errors import Error as NatsError

from eda.errors import Closed, ConfigError, ServerError, Timeout
from eda.headers import MSG_ID, size_of_headers
from eda.jetstream.answer_inbox import AnswerInbox
from eda.jetstream.api import ask, while_answerable
from eda.jetstream.publish_answers import Answer, decode_answer
from eda.jetstream.subjects import fits_protocol_line
from eda.server_codes import MESSAGE_TOO_LARGE, STORE_FAILED
from eda.transport.wire import Wire

__all__ = ["ONCE_TIMEOUT_S", "is_too_large", "store_message"]

ONCE_TIMEOUT_S = 5.0


async def store_message(
    wire: Wire, stream: str, subject: str, payload: bytes, headers: dict[str, str], *, domain: str
) -> Answer:
    """Publish a message with headers, and return the acknowledgement of stream `stream` in `domain`.

    A stream of another domain may store the message as well, and answer first. Then the message is published again,
    with an inbox that receives all answers. If it has no message id, `stream` stores it twice. The values of headers
    must be printable ASCII.

    Raises ConfigError if the subject is too long for a protocol line, or if the message is over the server's
    max_payload. Then it is not stored. Raises ServerError, Timeout (after 5 s) and Closed; then, and if the caller is
    cancelled, the message may be stored or not.
    """
    if not fits_protocol_line(subject):  # the server would close the connection
        shown = f"{subject[:60]}…"
        raise ConfigError(f"subject {shown!r} is too long for the server's protocol line", argument="aggregate")
    n_total, most = size_of_headers(headers) + len(payload), wire.max_payload
    if n_total > most:  # the server would close the connection
        message = f"message {headers.get(MSG_ID, '')}: its {n_total} bytes are over the server's max_payload of {most}"
        raise ConfigError(message, argument="data")
    operation = f"publish to {stream}"
    await _until_up(wire, operation)
    try:
        reply = await ask(wire, subject, payload, ONCE_TIMEOUT_S, headers)
        answer = decode_answer(0, reply.data)
        if answer is not None and _may_be_of_another(answer, domain):
            async with AnswerInbox(wire, stream, domain) as inbox:
                answer = await while_answerable(wire, subject, _answered(wire, subject, payload, headers, inbox))
    except ConnectionReconnectingError as error:
        raise ServerError(503, 0, "the connection was lost before the answer came", operation=operation) from error
    except NoRespondersError as error:
        raise ServerError(503, 0, "no responders", operation=operation) from error
    except (TimeoutError, NatsError) as error:
        if wire.is_closed:
            raise Closed("connection") from error
        raise Timeout(operation, ONCE_TIMEOUT_S) from error
    if answer is None:
        raise ServerError(500, 0, "an answer that is not an acknowledgement", operation=operation)
    if answer.error is not None:
        raise answer.error.as_error(stream)
    if answer.stream != stream:
        owner = f"stream {answer.stream!r} owns the subject of stream {stream!r}"
        raise ServerError(500, 0, owner, operation=operation)
    return answer


def _may_be_of_another(answer: Answer, domain: str) -> bool:
    """Return whether the answer may come from another domain. A refusal names no domain."""
    return bool(domain) if answer.error is not None else answer.domain != domain


async def _answered(
    wire: Wire, subject: str, payload: bytes, headers: dict[str, str], inbox: AnswerInbox
) -> Answer | None:
    """Publish the message, and return the answer. Raises TimeoutError after 5 s, and nats-py's own errors."""
    await wire.publish(subject, payload, reply=inbox.inbox, headers=headers or None)
    async with asyncio.timeout(ONCE_TIMEOUT_S):
        return await inbox.answer


def is_too_large(error: Exception) -> bool:
    """Return whether `store_message` failed because the message is over a limit of the server or the stream."""
    if isinstance(error, ServerError):
        too_large = error.err_code == STORE_FAILED and error.description.startswith("message too large")
        return too_large or error.err_code == MESSAGE_TOO_LARGE
    return isinstance(error, ConfigError) and error.argument == "data"


async def _until_up(wire: Wire, operation: str) -> None:
    """Wait for the connection. While it is down, nats-py would keep the request, and send it after its time-out."""
    deadline = monotonic() + ONCE_TIMEOUT_S
    while not wire.is_up:
        if wire.is_closed or wire.closing:
            raise Closed("connection")
        if monotonic() > deadline:
            raise Timeout(operation, ONCE_TIMEOUT_S)
        await asyncio.sleep(0.02)
