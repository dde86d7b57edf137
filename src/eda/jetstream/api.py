"""Requests of the JetStream API, in JSON, over one connection; and the requests about consumers.

nats-py's manager is not used: its classes drop settings that they do not know, so an update would remove these from the
stream.

Source: https://docs.nats.io/reference/reference-protocols/nats_api_reference and ADR-1.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
from nats.aio.msg import Msg
from nats.errors import ConnectionReconnectingError, NoRespondersError
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeout

from eda.errors import Closed, ConfigError, EdaError, NotSupported, ServerError, StreamNotFound, Timeout
from eda.jetstream.publish_answers import Refused
from eda.jetstream.pull_limits import lowered_consumer
from eda.jetstream.schemas import Account, Consumer, Message
from eda.log import Seldom
from eda.server_codes import CONSUMER_NOT_FOUND, NOT_ENABLED, NOT_ENABLED_FOR_ACCOUNT, STREAM_NOT_FOUND
from eda.transport.loops import check_loop
from eda.transport.wire import Wire

__all__ = ["ATTEMPT_TIMEOUT_S", "REQUEST_TIMEOUT_S", "Api", "ask", "stream_error", "while_answerable"]

MAX_ANSWER = 8 * 1024 * 1024  # bytes; a page of 256 streams has less than 1 MiB

REQUEST_TIMEOUT_S = 10.0
ATTEMPT_TIMEOUT_S = 5.0
FOREIGN_DOMAIN_S = 1.0  # how long to wait for a domain whose leaf node may still be connecting

_OPTIONS = {"filter_subjects": "types", "filter_subject": "types", "eda-filter": "types"}  # the server's name > eda's

_T = TypeVar("_T")


class _MessageAnswer(msgspec.Struct):
    message: Message | None = None
    error: Refused | None = None


_decode_message = msgspec.json.Decoder(_MessageAnswer).decode


class Api:
    """JetStream API requests within one domain."""

    def __init__(self, wire: Wire, domain: str | None, client: str = "") -> None:
        self.wire = wire
        self.prefix: str = f"$JS.{domain}.API" if domain else "$JS.API"
        self._wanted = domain
        # The domain of the streams, as the server names it in its answer to INFO; known after `discover`.
        self.domain: str = domain or ""
        self.level: int = 0
        self.client = client  # the connection's name, for the labels of new streams and consumers
        self.seldom: Seldom = Seldom()  # for warnings about requests that a program may repeat without end
        self._is_mapped = bool(domain)

    def kv_subject(self, subject: str) -> str:
        """Return the subject on which a message for a `$KV.` subject must be published to reach the domain's bucket.

        Messages on `$KV.>` do not cross leaf nodes. So the bucket of the connection's own server would store them.
        """
        return f"{self.prefix}.{subject}" if self._is_mapped else subject

    @property
    def hears_publishes(self) -> bool:
        """Return whether a subscription to a stream's subjects gets every publish to them.

        If a domain was named, the stream may be in another domain. Its publishes need not reach this server.
        """
        return not self._is_mapped

    @property
    def is_foreign(self) -> bool:
        """Return whether the domain differs from the domain of the connection's server."""
        return self._is_mapped and self.wire.info.get("domain") != self.domain

    async def request(
        self,
        verb: str,
        body: dict[str, Any] | None = None,
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
        schema: type[msgspec.Struct] | None = None,
        max_bytes: int = MAX_ANSWER,
    ) -> dict[str, Any]:
        """Send an API request and return its answer, checked against `schema` and at most `max_bytes` long.

        The request is sent again while nobody responds, and if no answer comes within `attempt_timeout_s`. For a
        request that must not be done twice, `attempt_timeout_s` must be at least `timeout_s`. Raises ServerError with
        the server's code, Timeout, Closed; ConfigError for a request that is over the server's max_payload.
        """
        data = await self._asked(verb, body, timeout_s, attempt_timeout_s)
        if len(data) > max_bytes:
            raise ServerError(500, 0, f"an answer of {len(data)} bytes is too long", operation=verb)
        try:
            answer = msgspec.json.decode(data, type=dict[str, Any])
            refused = answer.get("error")
            if refused is not None:
                raise _as_error(msgspec.convert(refused, Refused), verb)
            if schema is not None:
                msgspec.convert(answer, schema)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ServerError(500, 0, f"an answer that makes no sense: {error}", operation=verb) from error
        return answer

    async def message(self, stream: str, query: dict[str, Any], *, patience_s: float = REQUEST_TIMEOUT_S) -> Message:
        """Return the stored message. Raises ServerError (err_code 10037: there is no such message), Timeout, Closed."""
        verb = f"STREAM.MSG.GET.{stream}"
        data = await self._asked(verb, query, patience_s, min(ATTEMPT_TIMEOUT_S, patience_s / 2))
        try:
            answer = _decode_message(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ServerError(500, 0, f"an answer that makes no sense: {error}", operation=verb) from error
        if answer.error is not None:
            raise _as_error(answer.error, verb)
        if answer.message is None or answer.message.seq < query.get("seq", 1):
            raise ServerError(500, 0, "an answer without the message", operation=verb)
        return answer.message

    async def _asked(self, verb: str, body: dict[str, Any] | None, timeout_s: float, attempt_timeout_s: float) -> bytes:
        """Send the request until it is answered, and return the bytes of the answer."""
        check_loop(self.wire.loop)
        payload = msgspec.json.encode(body) if body is not None else b""
        deadline = time.monotonic() + timeout_s
        is_sent_once = attempt_timeout_s >= timeout_s
        pause_s = 0.05
        while True:
            left_s = deadline - time.monotonic()
            if not self.wire.is_up and not self.wire.is_closed:
                # nats-py would keep the request and send it after a reconnect, when its caller has long given up.
                if left_s <= 0:
                    raise Timeout(f"JetStream request {verb}", timeout_s)
                await asyncio.sleep(0.02)
                continue
            if len(payload) > self.wire.max_payload:
                raise _too_large(verb, body or {}, len(payload), self.wire.max_payload)
            try:
                answer = await ask(
                    self.wire,
                    f"{self.prefix}.{verb}",
                    payload,
                    max(min(left_s, attempt_timeout_s), 0.01),
                    outlives_loss=is_sent_once,
                )
                return answer.data
            except NoRespondersError as error:
                if left_s <= pause_s:
                    raise ServerError(
                        503, 0, "no responders: JetStream is off or has no leader", operation=verb
                    ) from error
            except (NatsTimeout, TimeoutError) as error:
                if is_sent_once or left_s <= pause_s:
                    raise Timeout(f"JetStream request {verb}", timeout_s) from error
            except NatsError as error:
                if self.wire.is_closed:
                    raise Closed("connection") from error
                if left_s <= pause_s:
                    raise Timeout(f"JetStream request {verb}", timeout_s) from error
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 1.0)

    async def discover(self, timeout_s: float) -> None:
        """Ask the server what it supports. Raises NotSupported if it has no JetStream."""
        server = f"nats-server {self.wire.server_version}"
        try:
            # A server with JetStream says so in its INFO. Otherwise a long wait is useless.
            has_jetstream = bool(self.wire.info.get("jetstream"))
            wait_s = timeout_s if has_jetstream else min(timeout_s, 0.5)
            if self._wanted is not None and self.wire.info.get("domain") != self._wanted:
                wait_s = min(wait_s, FOREIGN_DOMAIN_S)
            answer = await self.request("INFO", timeout_s=wait_s, schema=Account)
        except ServerError as error:
            # 503 without an error code: nobody answers. 503 with an error code: JetStream has no leader yet.
            if (error.code == 503 and not error.err_code) or error.err_code in (NOT_ENABLED, NOT_ENABLED_FOR_ACCOUNT):
                raise self._missing(server) from error
            raise
        self.level = answer.get("api", {}).get("level", 0)
        self.domain = answer.get("domain", "")

    def _missing(self, server: str) -> NotSupported:
        needs = "a server and account with JetStream on"
        if self._wanted is None:
            return NotSupported("JetStream", needs=needs, server=server)
        own = self.wire.info.get("domain")
        found = f"{server}, which belongs to the domain {own!r}" if own else f"{server}, which belongs to no domain"
        needs += " that answers for this domain, here or behind a leaf node"
        return NotSupported(f"the JetStream domain {self._wanted!r}", needs=needs, server=found)

    @property
    def has_atomic(self) -> bool:
        """Return whether the server accepts atomic batches (2.12 and later)."""
        return self.level >= 2 and self._version() >= (2, 12)

    @property
    def has_fast_ingest(self) -> bool:
        """Return whether the server accepts fast-ingest batches (2.14 and later)."""
        return self.level >= 2 and self._version() >= (2, 14)

    @property
    def filters_reliably(self) -> bool:
        """Return whether consumers with several filter subjects deliver all matching messages.

        Up to at least 2.11.0 a server sometimes skips messages of a literal filter subject if another one has a
        wildcard (nats-server 6824). 2.12.0 is the first minor version without this error.
        """
        return self._version() >= (2, 12)

    @property
    def has_atomic_ids(self) -> bool:
        """Return whether the server accepts atomic batches of messages with ids (2.12.1 and later)."""
        patch = self.wire.server_version.split("-")[0].split(".")[2:3]
        return self.has_atomic and (self._version() > (2, 12) or patch not in ([], ["0"]))

    @property
    def has_sound_batches(self) -> bool:
        """Return whether a replicated stream checks the expectation of a batch against batches that are under way.

        Before 2.12.14, and from 2.14.0 to 2.14.3, the server forgets the filter of a batch that is under way, because
        the text is in a buffer that it uses again (nats-server, commit 39a478eec). Two batches for one aggregate may
        both be stored then.
        """
        major, minor = self._version()
        digits = self.wire.server_version.split("-")[0].split(".")[2:3]
        patch = int(digits[0]) if digits and digits[0].isdecimal() else 0
        least = (2, 12, 14) if (major, minor) == (2, 12) else (2, 14, 4)
        return (major, minor, patch) >= least

    def check_has_expectations(self) -> None:
        """Raise NotSupported unless the server checks expectations of a filter, and has `multi_last` (both 2.11)."""
        if self.level < 1 or self._version() < (2, 11):
            server = f"nats-server {self.wire.server_version}"
            raise NotSupported("the event store", needs="nats-server 2.11 or later", server=server)

    def _version(self) -> tuple[int, int]:
        parts = self.wire.server_version.split(".")
        try:
            return int(parts[0]), int(parts[1])
        except (IndexError, ValueError):
            return 0, 0

    # --- consumers ---------------------------------------------------------------------------------------------------

    async def consumer_info(self, stream: str, name: str) -> dict[str, Any] | None:
        """Return the server's description of the consumer; None if it does not exist. Raises StreamNotFound."""
        try:
            return await self.request(f"CONSUMER.INFO.{stream}.{name}", schema=Consumer)
        except ServerError as error:
            if error.err_code == CONSUMER_NOT_FOUND:
                return None
            raise stream_error(error, stream) from error

    async def twin_domain(self, stream: str, name: str) -> str:
        """Return the domain of the connection's own server if it has a consumer with the same names, else "".

        In most servers, the reply subject of a delivery contains no domain. So one acknowledgement reaches both
        consumers.
        """
        domain: str = self.wire.info.get("domain", "")
        if not self.is_foreign or not domain:
            return ""
        subject = f"$JS.API.CONSUMER.INFO.{stream}.{name}"
        self.wire.may_be_forbidden.add(subject)
        try:
            answer = await ask(self.wire, subject, b"", ATTEMPT_TIMEOUT_S)
            return domain if "config" in msgspec.json.decode(answer.data, type=dict[str, Any]) else ""
        except (NatsError, ServerError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return ""  # nobody answers, or the server forbids the question
        finally:
            self.wire.may_be_forbidden.discard(subject)

    async def create_consumer(
        self, stream: str, name: str, config: dict[str, Any], *, action: str = "create"
    ) -> dict[str, Any]:
        """Create a consumer (or change it, with the action "update"), with settings lowered to the server's limits.

        Raises StreamNotFound, ServerError.
        """
        while True:
            body = {"stream_name": stream, "config": config, "action": action}
            try:
                return await self.request(f"CONSUMER.CREATE.{stream}.{name}", body, schema=Consumer)
            except ServerError as error:
                lowered = lowered_consumer(config, error)
                if lowered is None:
                    raise stream_error(error, stream) from error
                config = lowered

    async def delete_consumer(self, stream: str, name: str, *, once: bool = False) -> bool:
        """Delete a consumer. Return whether it existed. `once`: the request is not sent again without an answer."""
        attempt_timeout_s = REQUEST_TIMEOUT_S if once else ATTEMPT_TIMEOUT_S
        try:
            await self.request(f"CONSUMER.DELETE.{stream}.{name}", attempt_timeout_s=attempt_timeout_s)
        except ServerError as error:
            if error.err_code in (CONSUMER_NOT_FOUND, STREAM_NOT_FOUND):
                return False
            raise
        return True


async def ask(
    wire: Wire,
    subject: str,
    payload: bytes,
    timeout_s: float,
    headers: dict[str, str] | None = None,
    *,
    outlives_loss: bool = False,
) -> Msg:
    """Send a request once and return the first answer. Raises the errors of `while_answerable`, and nats-py's errors.

    `outlives_loss`: keep waiting if the connection is lost, for a request that must not be sent twice.
    """
    request = wire.request(subject, payload, timeout=timeout_s, headers=headers)
    return await while_answerable(wire, subject, request, outlives_loss=outlives_loss)


async def while_answerable(
    wire: Wire, subject: str, request: Coroutine[Any, Any, _T], *, outlives_loss: bool = False
) -> _T:
    """Await the request to a subject and return its result. Stop when no answer can come any more.

    Raises ServerError (403) if the server forbids the subject, Closed if the connection is closed, and nats-py's
    ConnectionReconnectingError if the connection is lost.
    """
    cut: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    def end(error: Exception) -> None:
        if not cut.done():
            cut.set_result(error)

    def on_refused(kind: str, refused: str) -> None:
        if kind == "publish" and refused == subject:
            end(ServerError(403, 0, f"no permission to publish to {subject}"))
        elif kind == "subscription" and refused == wire.answers_subject:
            end(ServerError(403, 0, f"no permission to subscribe to {refused}"))

    def on_lost() -> None:
        if not outlives_loss:
            end(ConnectionReconnectingError())

    def on_closed() -> None:
        end(Closed("connection"))

    listening: list[tuple[list[Any], Any]]
    listening = [(wire.on_refused, on_refused), (wire.on_lost, on_lost), (wire.on_closed, on_closed)]
    for calls, call in listening:
        calls.append(call)
    asking = asyncio.get_running_loop().create_task(request)
    either: set[asyncio.Future[Any]] = {asking, cut}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            raise cut.result()
        return asking.result()
    finally:
        for calls, call in listening:
            calls.remove(call)
        if not asking.cancel() and not asking.cancelled():
            asking.exception()


def _too_large(verb: str, body: dict[str, Any], n_bytes: int, most: int) -> ConfigError:
    """Return the error for a request over max_payload; it names the largest setting. The server would disconnect us."""
    name, value = "", body
    while isinstance(value, dict) and value:
        name, value = max(value.items(), key=lambda item: len(msgspec.json.encode(item[1])))
    values = f" with its {len(value)} values" if isinstance(value, list) else ""
    return ConfigError(
        f"JetStream request {verb} takes {n_bytes} bytes, more than the server's max_payload of {most}: "
        f"{name}{values} takes {len(msgspec.json.encode(value))} of them",
        argument=_OPTIONS.get(name, name),
    )


def _as_error(refused: Refused, verb: str) -> ServerError:
    return ServerError(refused.code, refused.err_code, refused.description, operation=verb)


def stream_error(error: ServerError, stream: str) -> EdaError:
    """Return StreamNotFound if the server says that the stream does not exist, else the server's error."""
    return StreamNotFound(stream) if error.err_code == STREAM_NOT_FOUND else error
