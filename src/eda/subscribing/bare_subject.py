"""Messages on a stream's own subject: readers ask for that subject only if the stream has such messages.

A publisher that can't build an event's subject may publish the event to the stream's own subject. So a filter needs
that subject as well. But with a second subject in its filter the server walks over all messages: to find the three
events of one aggregate among 600,000 takes a quarter of a second instead of 30 ms. Hardly any stream has such messages.
So while the stream has none, readers leave the subject out, and the client listens in case somebody publishes one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError

from eda.errors import Closed, ServerError
from eda.jetstream.api import Api
from eda.jetstream.stream_info import StreamInfo
from eda.jetstream.streams import count_on_subject
from eda.server_codes import FORBIDDEN, MESSAGE_NOT_FOUND
from eda.transport._callback_sink import CallbackSink
from eda.transport.wire import Wire

__all__ = ["BareSubject"]

SUBSCRIBED_S = 1.0  # after this time, all servers of a cluster know of a subscription


class BareSubject:
    """Whether the readers of a stream have to ask for the stream's own subject. Once they have to, they always do.

    `always`: they have to in any case. `on_needed(why)` is called when readers have to ask for this subject, but the
    current reader does not. If a message on the subject is the reason, the call is made before the next delivery is
    parsed, so that the owner can refuse it.
    """

    def __init__(
        self, wire: Wire, api: Api, stream: str, on_needed: Callable[[str], None], *, always: bool = False
    ) -> None:
        self._wire = wire
        self._api = api
        self._stream = stream
        self._on_needed = on_needed
        self._loop = asyncio.get_running_loop()
        self._must = always or not api.hears_publishes
        self._hints: NatsSubscription | None = None
        self._second_check: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self.is_needed: bool = True  # until a check has found no message

    async def check(self) -> StreamInfo:
        """Find out whether the subject is needed, and return the stream. Raises StreamNotFound, ServerError."""
        if not self._must and self._hints is None:
            # Listen before the question, so that no message between the two is missed.
            self._wire.may_be_forbidden.add(self._stream)
            await self._listen()
        try:
            info, n = await count_on_subject(self._api, self._stream, self._stream)
        finally:
            self._wire.may_be_forbidden.discard(self._stream)  # a refusal of our subscription comes before the answer
        self._must |= n > 0
        self.is_needed = self._must
        if self._must:
            await self.close()
        else:
            self._check_again_soon()
        return info

    async def first_after(self, seq: int) -> int:
        """Return the sequence of the first message on the subject after `seq`; 0 if there is none.

        If the server does not let us look at messages, return the next sequence. Raises ServerError, Timeout, Closed.
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
        """Have readers ask for the subject if the server does not let us listen to it."""
        if kind == "subscription" and subject == self._stream and self._hints is not None:
            self._need(f"no permission to subscribe to {subject}")

    async def close(self) -> None:
        """Stop listening and checking."""
        if self._second_check is not None and self._second_check is not asyncio.current_task():
            self._second_check.cancel()
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
        """Note that readers have to ask for the subject, and stop listening, because there is nothing more to learn."""
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
            with suppress(NatsError):  # the connection was closed meanwhile, which ended the subscription
                await self._wire.detach(hints)
            self._wire.release(hints)

    def _check_again_soon(self) -> None:
        if self._second_check is not None:
            self._second_check.cancel()
        self._second_check = self._loop.create_task(self._check_again())

    async def _check_again(self) -> None:
        """Look for a message that was published before all servers of a cluster knew that we listen."""
        await asyncio.sleep(SUBSCRIBED_S)
        try:
            if await self.first_after(0):
                self._need(f"there may be messages on {self._stream} itself")
        except Closed:
            return
        except Exception as error:
            self._need(f"looking for messages on {self._stream} itself failed: {error}")
