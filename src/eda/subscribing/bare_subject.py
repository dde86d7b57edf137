"""Messages on a stream's own subject, and readers that ask for them only where there are any.

Whoever can't build an event's subject may publish it to the stream's own, so a filter asks for that as well. But a
second filter subject makes the server walk over all messages: for the three events of one aggregate among 600,000, a
quarter of a second in place of 30 ms. Hardly any stream has such messages. So readers leave the subject out while the
stream has none, and listen whether somebody publishes one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError

from eda.errors import Closed, ServerError
from eda.jetstream.api import Api
from eda.jetstream.streams import StreamInfo, count_on_subject
from eda.server_codes import FORBIDDEN, MESSAGE_NOT_FOUND
from eda.transport._callback_sink import CallbackSink
from eda.transport.wire import Wire

__all__ = ["BareSubject"]

SETTLE_S = 1.0  # by then a subscription is known to all servers of a cluster


class BareSubject:
    """Whether a stream's readers have to ask for its own subject. Once they have to, it stays so.

    `on_needed(why)` is called when that turns out while there is a reader that does not: synchronously, from within
    the connection's reading, so that the deliveries behind the message are not taken.
    """

    def __init__(
        self, wire: Wire, api: Api, logger: logging.Logger, stream: str, on_needed: Callable[[str], None]
    ) -> None:
        self._wire = wire
        self._api = api
        self._logger = logger
        self._stream = stream
        self._on_needed = on_needed
        self._loop = asyncio.get_running_loop()
        self._must = not api.hears_publishes
        self._hints: NatsSubscription | None = None
        self._again: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self.is_needed = True  # as long as nobody has looked

    async def look(self) -> StreamInfo:
        """Return the stream, having found out whether its own subject is needed. Raises StreamNotFound, ServerError."""
        if not self._must and self._hints is None:
            # Before the look: what comes in between is heard.
            self._wire.may_be_forbidden.add(self._stream)
            await self._listen()
        try:
            info, n = await count_on_subject(self._api, self._stream, self._stream)
        finally:
            self._wire.may_be_forbidden.discard(self._stream)  # a refusal comes before the answer
        self._must |= n > 0
        self.is_needed = self._must
        if self._must:
            await self.close()
        else:
            self._look_again_soon()
        return info

    async def first_after(self, seq: int) -> int:
        """Return the first message on the subject behind a sequence, 0 where there is none.

        The next sequence, where we may not look at messages. Raises ServerError, Timeout, Closed.
        """
        subject = f"{self._api.prefix}.STREAM.MSG.GET.{self._stream}"
        self._wire.may_be_forbidden.add(subject)
        try:
            return (await self._api.message(self._stream, {"seq": seq + 1, "next_by_subj": self._stream})).seq
        except ServerError as error:
            if error.err_code == MESSAGE_NOT_FOUND:
                return 0
            if error.code == FORBIDDEN:
                return seq + 1
            raise
        finally:
            self._wire.may_be_forbidden.discard(subject)

    def on_refused(self, kind: str, subject: str) -> None:
        """Ask for the subject when we may not listen to it."""
        if kind == "subscription" and subject == self._stream and self._hints is not None:
            self._need(f"no permission to subscribe to {subject}")

    async def close(self) -> None:
        """Listen no more."""
        if self._again is not None and self._again is not asyncio.current_task():
            self._again.cancel()
        await self._stop_listening()
        if self._closing:
            await asyncio.wait(self._closing)

    # --- listening ---------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        def take(tail: bytes, headers: bytes, payload: bytes) -> None:
            self._need(f"there is a message on {self._stream} itself")

        try:
            self._hints = await self._wire.attach(self._stream, CallbackSink(0, take))
        except NatsError as error:
            raise Closed("connection") from error

    def _need(self, why: str) -> None:
        if self._must:
            return
        self._must = True
        closing = self._loop.create_task(self._stop_listening())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        if not self.is_needed:
            self.is_needed = True
            self._on_needed(why)

    async def _stop_listening(self) -> None:
        hints, self._hints = self._hints, None
        if hints is not None:
            with suppress(NatsError):  # closed meanwhile, and the subscription with it
                await self._wire.detach(hints)
            self._wire.release(hints)

    def _look_again_soon(self) -> None:
        if self._again is not None:
            self._again.cancel()
        self._again = self._loop.create_task(self._look_again())

    async def _look_again(self) -> None:
        """Find what was published before all servers of a cluster knew that we listen; see that we may look."""
        await asyncio.sleep(SETTLE_S)
        try:
            if await self.first_after(0):
                self._need(f"there may be messages on {self._stream} itself")
        except Closed:
            return
        except Exception as error:
            self._need(f"looking for messages on {self._stream} itself failed: {error}")
