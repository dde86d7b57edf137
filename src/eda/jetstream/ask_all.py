"""A question to everybody who listens to a subject."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from nats.errors import Error as NatsError

from eda.errors import Closed
from eda.transport._callback_sink import CallbackSink
from eda.transport.wire import Wire

__all__ = ["ask_all"]

NO_RESPONDERS = b"NATS/1.0 503"


async def ask_all(
    wire: Wire, question: str, payload: bytes, answers: str, take: Callable[[bytes], None], patience_s: float
) -> bool:
    """Publish a question, and call `take` with each answer to the subject `answers` that arrives in time.

    If nobody listens to the question, the server says so, and there is no wait. Return False if the server forbids us
    to ask. Raises Closed.
    """
    is_allowed = True
    ended = asyncio.Event()

    def receive(tail: bytes, headers: bytes, answer: bytes) -> None:
        if headers.startswith(NO_RESPONDERS):
            ended.set()
        else:
            take(answer)

    def on_refused(kind: str, subject: str) -> None:
        nonlocal is_allowed
        if subject in (question, answers):
            is_allowed = False
            ended.set()

    wire.on_refused.append(on_refused)
    try:
        subscription = await wire.attach(answers, CallbackSink(0, receive))
        try:
            # The server answers to the reply subject if no connection anywhere listens to the question.
            wire.out.command(f"PUB {question} {answers} {len(payload)}\r\n".encode() + payload + b"\r\n")
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await ended.wait()
        finally:
            if not wire.is_closed:
                await wire.detach(subscription)
            wire.release(subscription)
    except NatsError as error:
        raise Closed("connection") from error
    finally:
        wire.on_refused.remove(on_refused)
    return is_allowed
