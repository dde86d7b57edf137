"""`conn.publish_batch`: some events, all or nothing.

Source: ADR-50, and nats-server's server/stream.go (processJetStreamAtomicBatchMsg).
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from eda._codec import encode_event
from eda._event import Event
from eda._nuid import next_nuid
from eda._send import check_event_id
from eda._wire import Wire
from eda.answers import Answer, decode_answer
from eda.api import Api
from eda.errors import Closed, ConfigError, ServerError, Timeout
from eda.subjects import subject_of

__all__ = ["MAX_EVENTS", "AtomicBatch"]

MAX_EVENTS = 1000  # the server's default limit
MAX_LINE = 4096  # the server's default max_control_line
TIMEOUT_S = 30.0
ACK_TIMEOUT_S = 5.0
PAUSE_S = 0.1
WRITE_SIZE = 256 * 1024
CLOCK_MARGIN_S = 5.0  # for the search of a first try that may have landed: the server's clock may have been set

NO_MESSAGE = 10037
# A batch that was cut off by a lost connection, or forgotten by a new leader; too many batches of others at once.
TRY_AGAIN = frozenset({10176, 10210})
DUPLICATE = 10201


class AtomicBatch:
    """One batch on its way: built whole, then sent until its outcome is known."""

    def __init__(
        self, wire: Wire, api: Api, logger: logging.Logger, client: str, stream: str, events: Iterable[Event]
    ) -> None:
        self._wire = wire
        self._api = api
        self._logger = logger
        self._stream = stream
        self.ids: list[str] = []
        self._messages: list[tuple[str, bytes]] = []  # subject, envelope
        self._batches: list[str] = []  # the ids of all tries
        now_ns = time.time_ns()
        for index, event in enumerate(events):
            if type(event) is not Event:
                raise ConfigError(
                    f"events[{index}] must be an eda.Event, not {type(event).__name__}", argument="events"
                )
            if index == MAX_EVENTS:
                raise ConfigError(f"a batch has at most {MAX_EVENTS} events", argument="events")
            event_id = event.id or next_nuid()
            check_event_id(event_id)
            self.ids.append(event_id)
            subject = subject_of(stream, event.type, event.aggregate)
            self._messages.append((subject, encode_event(event, event_id, client, now_ns)))
        twice = len(self.ids) - len(set(self.ids))
        if twice:
            raise ConfigError(f"events: {twice} ids stand in the batch more than once", argument="events")

    async def publish(self) -> list[str]:
        """Send the batch and return the ids once all of it is stored.

        Raises ConfigError before anything is sent; ServerError when the server refuses it, and then nothing is stored;
        Timeout when the outcome could not be learned.
        """
        if not self._messages:
            return []
        frames = [self._frame(index, "x" * 22) for index in range(len(self._messages))]
        self._check(frames)
        started = time.monotonic()
        answer: Answer | None = None
        while time.monotonic() - started < TIMEOUT_S:
            if self._wire.is_closed or self._wire.closing:
                raise Closed("connection")
            answer = await self._send()
            if answer is None:
                continue
            if answer.error is None:
                return self.ids
            if answer.error.err_code == DUPLICATE and len(self._batches) > 1:
                if await self._landed(started):
                    return self.ids
            elif answer.error.may_pass or answer.error.err_code in TRY_AGAIN:
                await asyncio.sleep(PAUSE_S)
                continue
            raise answer.error.as_error(self._stream)
        if answer is not None and answer.error is not None:
            raise answer.error.as_error(self._stream)
        raise Timeout("publish_batch", TIMEOUT_S)

    # --- building ----------------------------------------------------------------------------------------------------

    def _headers(self, index: int, batch: str) -> dict[str, str]:
        headers = {
            "Nats-Msg-Id": self.ids[index],
            "Nats-Batch-Id": batch,
            "Nats-Batch-Sequence": str(index + 1),
        }
        if index == len(self._messages) - 1:
            headers["Nats-Batch-Commit"] = "1"
        return headers

    def _frame(self, index: int, batch: str) -> bytes:
        subject, envelope = self._messages[index]
        lines = "".join(f"{name}: {value}\r\n" for name, value in self._headers(index, batch).items())
        header = f"NATS/1.0\r\n{lines}\r\n".encode()
        return b"HPUB %b %d %d\r\n%b%b\r\n" % (
            subject.encode(),
            len(header),
            len(header) + len(envelope),
            header,
            envelope,
        )

    def _check(self, frames: list[bytes]) -> None:
        for index, frame in enumerate(frames):
            line = frame.index(b"\r\n")
            if line + 128 > MAX_LINE:  # the last one gets a reply subject too
                raise ConfigError(
                    f"events[{index}]: type and aggregate make a subject too long for the server", argument="events"
                )
            n_total = len(frame) - line - 4
            if n_total > self._wire.max_payload:
                raise ConfigError(
                    f"events[{index}] of {n_total} bytes is over the server's max_payload of {self._wire.max_payload}",
                    argument="events",
                )

    # --- sending -----------------------------------------------------------------------------------------------------

    async def _send(self) -> Answer | None:
        """Try once; None when the outcome is not known."""
        wire = self._wire
        if not wire.is_up:
            await asyncio.sleep(PAUSE_S)
            return None
        batch = next_nuid()
        self._batches.append(batch)
        last = len(self._messages) - 1
        part: list[bytes] = []
        size = 0
        for index in range(last):
            part.append(self._frame(index, batch))
            size += len(part[-1])
            if size >= WRITE_SIZE:
                await self._write(b"".join(part))
                part, size = [], 0
        await self._write(b"".join(part))
        subject, envelope = self._messages[last]
        try:
            # Its frame goes through nats-py and so behind what was just written.
            reply = await wire.request(subject, envelope, timeout=ACK_TIMEOUT_S, headers=self._headers(last, batch))
        except NoRespondersError:
            return decode_answer(503, b"")
        except NatsError as error:
            self._logger.info("publish_batch to %s: no answer (%s), trying again", self._stream, error)
            return None
        return decode_answer(0, reply.data)

    async def _write(self, frames: bytes) -> None:
        if frames:
            await self._wire.writable()
            self._wire.out.command(frames)
            self._wire.out.flush()

    # --- a try without an answer -------------------------------------------------------------------------------------

    async def _landed(self, started: float) -> bool:
        """Whether an earlier try is what the server holds the batch a duplicate of.

        It is when the last event stands in the stream under the id of one of the tries: a batch is stored whole.
        """
        info = await self._api.request(f"STREAM.INFO.{self._stream}")
        now = datetime.fromisoformat(info["ts"]) if "ts" in info else datetime.now(UTC)
        since = now - timedelta(seconds=time.monotonic() - started + CLOCK_MARGIN_S)
        subject = self._messages[-1][0]
        asked: dict[str, Any] = {"start_time": since.isoformat(), "next_by_subj": subject}
        while True:
            try:
                found = (await self._api.request(f"STREAM.MSG.GET.{self._stream}", asked))["message"]
            except ServerError as error:
                if error.err_code == NO_MESSAGE:
                    return False
                raise
            headers = base64.b64decode(found.get("hdrs", ""))
            if b"\r\nNats-Msg-Id: %b\r\n" % self.ids[-1].encode() in headers:
                return any(b"\r\nNats-Batch-Id: %b\r\n" % batch.encode() in headers for batch in self._batches)
            asked = {"seq": found["seq"] + 1, "next_by_subj": subject}
