"""The JetStream API: JSON requests over one connection, and what concerns consumers.

Requests are built and read here rather than by nats-py's manager, whose classes drop the settings that they do not
know: an update would take them out of the stream.

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

from eda.errors import Closed, ConfigError, NotSupported, ServerError, StreamNotFound, Timeout
from eda.jetstream.publish_answers import Refused
from eda.jetstream.pull_limits import lowered_consumer
from eda.jetstream.schemas import Account, Consumer, Message
from eda.server_codes import CONSUMER_NOT_FOUND, NOT_ENABLED, NOT_ENABLED_FOR_ACCOUNT, STREAM_NOT_FOUND
from eda.transport.loops import check_loop
from eda.transport.wire import Wire

__all__ = ["ATTEMPT_TIMEOUT_S", "REQUEST_TIMEOUT_S", "Api", "ask", "stream_error", "while_answerable"]

MAX_ANSWER = 8 * 1024 * 1024  # bytes: a page of 256 streams has less than one of them

REQUEST_TIMEOUT_S = 10.0
ATTEMPT_TIMEOUT_S = 5.0
FOREIGN_DOMAIN_S = 1.0  # how long a domain behind a leaf node that is still connecting is waited for

_OPTIONS = {"filter_subjects": "types", "filter_subject": "types", "eda-filter": "types"}  # as users know them

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
        # The domain of the streams, as the answers about them name it; known after `discover`.
        self.domain: str = domain or ""
        self.level: int = 0
        self.client = client  # the connection's name, for the labels of what is made
        self._is_mapped = bool(domain)

    def kv_subject(self, subject: str) -> str:
        """Return where a `$KV.` subject is published, so that it reaches the domain's bucket.

        `$KV.>` itself crosses no leaf node: the bucket of the server that the connection is with would take it.
        """
        return f"{self.prefix}.{subject}" if self._is_mapped else subject

    @property
    def hears_publishes(self) -> bool:
        """Whether messages for streams can be heard as well: not surely those for another domain's."""
        return not self._is_mapped

    @property
    def is_foreign(self) -> bool:
        """Whether the domain is another one than that of the server that the connection is with."""
        return self._is_mapped and self.wire.info.get("domain") != self.domain

    async def request(
        self,
        verb: str,
        body: dict[str, Any] | None = None,
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
        schema: type[msgspec.Struct] | None = None,
    ) -> dict[str, Any]:
        """Send one API request and return the answer, which has that schema; tries again while nobody responds.

        Also sent again when its answer has not come within `attempt_timeout_s`: what must not be done twice has no less
        than `timeout_s` there. Raises ServerError with the server's own code, Timeout, Closed. Raises ConfigError for a
        request that is over the server's max_payload.
        """
        data = await self._asked(verb, body, timeout_s, attempt_timeout_s)
        if len(data) > MAX_ANSWER:
            raise ServerError(500, 0, f"an answer of {len(data)} bytes", operation=verb)
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
        """Return the stored message that is asked for. Raises ServerError (10037: there is none), Timeout, Closed."""
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
        """Return the answer as it came."""
        check_loop(self.wire.loop)
        payload = msgspec.json.encode(body) if body is not None else b""
        deadline = time.monotonic() + timeout_s
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
                    outlives_loss=attempt_timeout_s >= timeout_s,
                )
                return answer.data
            except NoRespondersError as error:
                if left_s <= pause_s:
                    raise ServerError(
                        503, 0, "no responders: JetStream is off or has no leader", operation=verb
                    ) from error
            except (NatsTimeout, TimeoutError) as error:
                if left_s <= pause_s:
                    raise Timeout(f"JetStream request {verb}", timeout_s) from error
            except NatsError as error:
                if self.wire.is_closed:
                    raise Closed("connection") from error
                if left_s <= pause_s:
                    raise Timeout(f"JetStream request {verb}", timeout_s) from error
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 1.0)

    async def discover(self, timeout_s: float) -> None:
        """Ask what the server can do. Raises NotSupported when it has no JetStream."""
        server = f"nats-server {self.wire.server_version}"
        try:
            # A server that runs JetStream says so; its absence is final then, and worth no waiting.
            has_jetstream = bool(self.wire.info.get("jetstream"))
            wait_s = timeout_s if has_jetstream else min(timeout_s, 0.5)
            if self._wanted is not None and self.wire.info.get("domain") != self._wanted:
                wait_s = min(wait_s, FOREIGN_DOMAIN_S)
            answer = await self.request("INFO", timeout_s=wait_s, schema=Account)
        except ServerError as error:
            # Nobody is there to answer. 503 with an error code of JetStream's own means that it elects a leader.
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
        needs += " that answers for this domain (cluster=), here or behind a leaf node"
        return NotSupported(f"the JetStream domain {self._wanted!r}", needs=needs, server=found)

    @property
    def has_atomic(self) -> bool:
        """Whether the server takes atomic batches (2.12 and later)."""
        return self.level >= 2 and self._version() >= (2, 12)

    @property
    def has_fast_ingest(self) -> bool:
        """Whether the server takes fast-ingest batches (2.14 and later)."""
        return self.level >= 2 and self._version() >= (2, 14)

    @property
    def filters_reliably(self) -> bool:
        """Whether consumers deliver all that several filters ask for.

        Up to 2.11.0 at least a literal filter beside one with a wildcard is passed over at times (nats-server 6824);
        2.12.0 is the first minor version without that.
        """
        return self._version() >= (2, 12)

    def _version(self) -> tuple[int, int]:
        parts = self.wire.server_version.split(".")
        try:
            return int(parts[0]), int(parts[1])
        except (IndexError, ValueError):
            return 0, 0

    # --- consumers ---------------------------------------------------------------------------------------------------

    async def consumer_info(self, stream: str, name: str) -> dict[str, Any] | None:
        """Return the consumer as the server describes it; None when there is none. Raises StreamNotFound."""
        try:
            return await self.request(f"CONSUMER.INFO.{stream}.{name}", schema=Consumer)
        except ServerError as error:
            if error.err_code == CONSUMER_NOT_FOUND:
                return None
            raise stream_error(error, stream) from error

    async def twin_domain(self, stream: str, name: str) -> str:
        """Return the domain of the connection's own server if it has a consumer of these names as well, else "".

        The reply subjects of most servers' deliveries hold no domain: one acknowledgement reaches both consumers.
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
            return ""  # nobody there, or it is not for us to know
        finally:
            self.wire.may_be_forbidden.discard(subject)

    async def create_consumer(
        self, stream: str, name: str, config: dict[str, Any], *, action: str = "create"
    ) -> dict[str, Any]:
        """Create (or, with action "update", change) a consumer, with less where a limit allows no more.

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

    async def delete_consumer(self, stream: str, name: str) -> bool:
        """Delete a consumer; returns whether there was one."""
        try:
            await self.request(f"CONSUMER.DELETE.{stream}.{name}")
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
    """Send a request once and return the first answer. Raises what `while_answerable` does, and nats-py's own errors.

    `outlives_loss`: a lost connection is no end, for what must not be sent twice.
    """
    request = wire.request(subject, payload, timeout=timeout_s, headers=headers)
    return await while_answerable(wire, subject, request, outlives_loss=outlives_loss)


async def while_answerable(
    wire: Wire, subject: str, request: Coroutine[Any, Any, _T], *, outlives_loss: bool = False
) -> _T:
    """Return what the request to a subject returns, unless no answer can come any more.

    Then raises ServerError (403) when the server forbids the subject, Closed, or nats-py's ConnectionReconnectingError
    when the connection is lost.
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
    """Return the error of a request that the server would close the connection for; it names the largest setting."""
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


def stream_error(error: ServerError, stream: str) -> Exception:
    """Return StreamNotFound where that is what the server says, else its error."""
    return StreamNotFound(stream) if error.err_code == STREAM_NOT_FOUND else error
