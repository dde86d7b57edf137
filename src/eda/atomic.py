"""`conn.publish_batch`: some events, all or nothing.

A try without an answer may be stored or not. The next one finds out: what is stored refuses it, for its ids are
duplicates, and then the stream shows whether it was this batch that came before.

Source: ADR-50, and nats-server's server/stream.go (processJetStreamAtomicBatchMsg).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from datetime import datetime
from typing import Any

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from eda._codec import encode_event
from eda._event import Event
from eda._nuid import next_nuid
from eda._send import check_event_id
from eda._wire import Wire
from eda.answers import Answer, Refused, decode_answer
from eda.api import Api
from eda.errors import Closed, CodecError, ConfigError, EdaError, NotSupported, ServerError, Timeout
from eda.shapes import Stream
from eda.subjects import subject_of

__all__ = ["MAX_EVENTS", "AtomicBatch"]

MAX_EVENTS = 1000  # the server's default limit
MAX_LINE = 4096  # the server's default max_control_line
N_REPLY = 128  # more than a reply subject and the sizes take of it
N_BATCH_ID = 22
TIMEOUT_S = 30.0
ACK_TIMEOUT_S = 5.0
PAUSE_S = 0.1
WRITE_SIZE = 256 * 1024

# server/errors.json of nats-server.
NO_MESSAGE = 10037
UNSUPPORTED_HEADER = 10177  # 2.12.0 takes no message ids in a batch
INCOMPLETE_BATCH = 10176  # it was cut off by a lost connection, or forgotten by a new leader: may pass, as a whole


class AtomicBatch:
    """One batch on its way: built whole, then sent until its outcome is known.

    `recover` is called when nobody answers for the stream: it creates it if it may, or raises StreamNotFound.
    """

    def __init__(
        self,
        wire: Wire,
        api: Api,
        logger: logging.Logger,
        client: str,
        stream: str,
        events: Iterable[Event],
        recover: Callable[[str], Coroutine[Any, Any, None]],
    ) -> None:
        self._wire = wire
        self._api = api
        self._logger = logger
        self._stream = stream
        self._recover = recover
        self._messages: list[tuple[str, bytes]] = []  # subject, envelope
        self.ids: list[str] = []
        self._batches: list[str] = []  # the ids of all tries
        self._unsure = False  # some try got no answer
        self._why: EdaError | None = None  # why the last try that was answered failed
        # Done when nothing will come of the running try: with the reason if the server gave one.
        self._cut: asyncio.Future[Answer | None]
        self._read(events, client)

    async def publish(self, *, last_seq: int, created: datetime, longest_s: float) -> list[str]:
        """Send the batch and return the ids once all of it is stored.

        `last_seq` and `created` are the stream's, from before; `longest_s` is how long its ids are remembered for sure.

        Raises ConfigError before anything is sent; ServerError, StreamNotFound and NotSupported when nothing is stored;
        Timeout when the outcome could not be learned.
        """
        for index in range(len(self._messages)):
            wrong = self._misfit(index)
            if wrong:
                raise ConfigError(f"events[{index}]: {wrong}", argument="events")
        if not self._messages:
            return []
        self._from_seq = last_seq + 1
        self._created = created
        self._cut = asyncio.get_running_loop().create_future()
        timeout_s = min(TIMEOUT_S, longest_s)
        wire = self._wire
        wire.on_lost.append(self._on_lost)
        wire.on_closed.append(self._on_lost)
        wire.on_refused.append(self._on_refused)
        try:
            async with asyncio.timeout(timeout_s) as limit:
                await self._settle()
        except TimeoutError:
            if not limit.expired():
                raise
            if self._why is not None and not self._unsure:
                raise self._why from None
            raise Timeout("publish_batch", timeout_s) from self._why
        finally:
            wire.on_lost.remove(self._on_lost)
            wire.on_closed.remove(self._on_lost)
            wire.on_refused.remove(self._on_refused)
        return self.ids

    # --- building ----------------------------------------------------------------------------------------------------

    def _read(self, events: Iterable[Event], client: str) -> None:
        if not isinstance(events, Iterable):
            raise ConfigError(f"events must be an iterable of eda.Event, not {events!r}", argument="events")
        now_ns = time.time_ns()
        index_of: dict[str, int] = {}
        for index, event in enumerate(events):
            where = f"events[{index}]"
            if index == MAX_EVENTS:
                raise ConfigError(f"a batch has at most {MAX_EVENTS} events", argument="events")
            if type(event) is not Event:
                raise ConfigError(f"{where} must be an eda.Event, not {type(event).__name__}", argument="events")
            event_id = event.id or next_nuid()
            if index_of.setdefault(event_id, index) != index:
                raise ConfigError(f"{where} has the id of events[{index_of[event_id]}]: {event_id}", argument="events")
            try:
                check_event_id(event_id)
                subject = subject_of(self._stream, event.type, event.aggregate)
                self._messages.append((subject, encode_event(event, event_id, client, now_ns)))
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}", argument="events") from error
            except CodecError as error:
                error.event_id = event.id
                error.add_note(where)
                raise
        self.ids = list(index_of)

    def _misfit(self, index: int) -> str:
        """Return why the server would not take an event for its size; nothing when it does."""
        subject, envelope = self._messages[index]
        if len(subject.encode()) + N_REPLY > MAX_LINE:
            return "type and aggregate make a subject too long for the server's protocol line"
        n_total = len(self._header(index, "x" * N_BATCH_ID)) + len(envelope)
        if n_total > self._wire.max_payload:
            return f"{n_total} bytes are over the server's max_payload of {self._wire.max_payload}"
        return ""

    def _headers(self, index: int, batch: str) -> dict[str, str]:
        headers = {
            "Nats-Msg-Id": self.ids[index],
            "Nats-Batch-Id": batch,
            "Nats-Batch-Sequence": str(index + 1),
        }
        if index == len(self._messages) - 1:
            headers["Nats-Batch-Commit"] = "1"
        return headers

    def _header(self, index: int, batch: str) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in self._headers(index, batch).items())
        return f"NATS/1.0\r\n{lines}\r\n".encode()

    def _parts(self, batch: str) -> Iterator[bytes]:
        """Give the frames of all events but the last, in pieces that are worth a write."""
        part = bytearray()
        for index, (subject, envelope) in enumerate(self._messages[:-1]):
            header = self._header(index, batch)
            n_header, n_total = len(header), len(header) + len(envelope)
            part += b"HPUB %b %d %d\r\n%b%b\r\n" % (subject.encode(), n_header, n_total, header, envelope)
            if len(part) >= WRITE_SIZE:
                yield bytes(part)
                part.clear()
        if part:
            yield bytes(part)

    # --- sending -----------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Try until the batch is stored. Raises what it fails with for good."""
        while True:
            if self._wire.is_closed or self._wire.closing:
                raise Closed("connection")
            answer = await self._try() if self._wire.is_up else None
            if answer is not None:
                refused = answer.error
                if refused is None:
                    return
                self._why = self._error_of(refused)
                if not (refused.may_pass or refused.err_code == INCOMPLETE_BATCH):
                    landed = await self._landed() if self._unsure else False
                    if landed:
                        return
                    if landed is False:
                        raise self._why
                elif refused.code == 503:
                    await self._look_for_stream()
            await asyncio.sleep(PAUSE_S)

    def _error_of(self, refused: Refused) -> EdaError:
        if refused.err_code == UNSUPPORTED_HEADER:
            server = f"nats-server {self._wire.server_version}"
            return NotSupported("an atomic batch of events with ids", needs="nats-server 2.12.1", server=server)
        return refused.as_error(self._stream)

    async def _try(self) -> Answer | None:
        """Send the batch once; None when nothing is known of the outcome."""
        if self._batches:  # the server may be another one by now
            for index in range(len(self._messages)):
                wrong = self._misfit(index)
                if wrong:
                    return Answer(error=Refused(400, 0, f"events[{index}]: {wrong}"))
        self._cut = asyncio.get_running_loop().create_future()
        batch = next_nuid()
        self._batches.append(batch)
        for part in self._parts(batch):
            await self._wire.writable()
            if self._cut.done():
                return self._cut.result()
            if not self._wire.is_up:
                return None
            self._wire.out.command(part)
            self._wire.out.flush()
        subject, envelope = self._messages[-1]
        headers = self._headers(len(self._messages) - 1, batch)
        # Its frame goes through nats-py and so behind what was just written.
        request = self._wire.request(subject, envelope, timeout=ACK_TIMEOUT_S, headers=headers)
        asking = asyncio.get_running_loop().create_task(request)
        was_unsure, self._unsure = self._unsure, True
        try:
            either: set[asyncio.Future[Any]] = {asking, self._cut}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            answer = self._answer_of(asking) if asking.done() else self._cut.result()
        finally:
            asking.cancel()
        if answer is not None:
            self._unsure = was_unsure
        return answer

    def _answer_of(self, asked: asyncio.Task[Msg]) -> Answer | None:
        try:
            answer = decode_answer(0, asked.result().data)
        except NoRespondersError:
            return decode_answer(503, b"")
        except NatsError as error:
            self._logger.info("publish_batch to %s: no answer (%s)", self._stream, error)
            return None
        if answer is not None and answer.error is None and answer.stream != self._stream:
            owner = f"stream {answer.stream!r} owns the subject of stream {self._stream!r}"
            return Answer(error=Refused(500, 0, owner))
        return answer

    def _on_lost(self) -> None:
        if not self._cut.done():
            self._cut.set_result(None)

    def _on_refused(self, kind: str, subject: str) -> None:
        if kind == "publish" and not self._cut.done() and any(subject == each for each, _ in self._messages):
            self._cut.set_result(Answer(error=Refused(403, 0, f"no permission to publish to {subject}")))

    # --- a try without an answer -------------------------------------------------------------------------------------

    async def _look_for_stream(self) -> None:
        """Nobody answers for the stream: have it created, or raise StreamNotFound."""
        try:
            await self._recover(self._stream)
        except (ServerError, Timeout) as error:
            self._logger.info("publish_batch to %s: %s", self._stream, error)

    async def _landed(self) -> bool | None:
        """Whether a try is in the stream, which is all of it then; None when the stream does not tell."""
        subject = self._messages[-1][0]
        seq = self._from_seq
        try:
            while True:
                asked: dict[str, Any] = {"seq": seq, "next_by_subj": subject}
                try:
                    found = await self._api.message(self._stream, asked)
                except ServerError as error:
                    if error.err_code != NO_MESSAGE:
                        raise
                    break
                if any(b"\r\nNats-Batch-Id: %b\r\n" % batch.encode() in found.hdrs for batch in self._batches):
                    return True
                seq = found.seq + 1
            info = await self._api.request(f"STREAM.INFO.{self._stream}", shape=Stream)
        except (ServerError, Timeout) as error:
            self._logger.info("publish_batch to %s: looking for it: %s", self._stream, error)
            return None
        created = datetime.fromisoformat(info["created"])
        if created != self._created:
            self._created, self._from_seq = created, 1  # another stream by that name: look again, from its beginning
            return None
        # What was stored meanwhile may be gone again: by a limit, a purge, a work queue.
        return False if info["state"]["first_seq"] <= self._from_seq else None
