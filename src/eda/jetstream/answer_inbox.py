"""An inbox for the answer to one published message. It accepts only the answer of the right stream and domain."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self

from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError

from eda.errors import Closed
from eda.jetstream.publish_answers import Answer, Refused, decode_answer
from eda.transport._callback_sink import CallbackSink
from eda.transport.wire import Wire

__all__ = ["REFUSAL_WAIT_S", "AnswerInbox"]

REFUSAL_WAIT_S = 0.3  # after a refusal: how long the right stream has to acknowledge the message all the same


class AnswerInbox:
    """An inbox for the answer to one message, as a context manager that subscribes and unsubscribes the inbox.

    Every stream that listens to the subject answers, also a stream of the same name in another JetStream domain.
    nats-py returns the first answer to a request, from whichever stream; this inbox skips the answers of other domains.
    A refusal names no domain. So if the server has a domain, an acknowledgement within 0.3 s after a refusal replaces
    the refusal.
    """

    def __init__(self, wire: Wire, stream: str, domain: str) -> None:
        self._wire = wire
        self._stream = stream
        self._domain = domain
        self.inbox: str = wire.new_inbox()
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Answer | None] = self._loop.create_future()
        self._refusal: asyncio.TimerHandle | None = None
        self._subscription: NatsSubscription | None = None

    async def __aenter__(self) -> Self:
        try:
            self._subscription = await self._wire.attach(self.inbox, CallbackSink(0, self._take))
        except NatsError as error:
            raise Closed("connection") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._refusal is not None:
            self._refusal.cancel()
        if self._subscription is not None:
            self._wire.release(self._subscription)
            with suppress(NatsError):  # the connection was closed meanwhile
                await self._wire.detach(self._subscription)

    @property
    def answer(self) -> asyncio.Future[Answer | None]:
        """Return the future of the answer. Its result is None if the answer can't be read."""
        return self._answer

    def _take(self, tail: bytes, headers: bytes, payload: bytes) -> None:
        if self._answer.done():
            return
        answer = decode_answer(503 if headers.startswith(b"NATS/1.0 503") else 0, payload)
        if answer is not None:
            if answer.error is None and answer.domain != self._domain:
                return
            if answer.error is None:
                if answer.stream != self._stream:
                    owner = f"stream {answer.stream!r} owns the subject of stream {self._stream!r}"
                    answer = Answer(error=Refused(500, 0, owner))
            elif self._domain and answer.error.code != 503:
                if self._refusal is None:
                    self._refusal = self._loop.call_later(REFUSAL_WAIT_S, self._set_answer, answer)
                return
        self._set_answer(answer)

    def _set_answer(self, answer: Answer | None) -> None:
        if not self._answer.done():
            self._answer.set_result(answer)
