"""Stream and consumer administration: JetStream's JSON API over one connection.

Requests are built and read here rather than by nats-py's manager, whose classes drop the settings that they do not
know: an update would take them out of the stream.

Source: https://docs.nats.io/reference/reference-protocols/nats_api_reference and ADR-1.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from eda._wire import Wire
from eda.errors import Closed, NotSupported, ServerError, StreamNotFound, Timeout
from eda.options import StreamOptions
from eda.subjects import check_stream_name, stream_subjects

__all__ = ["Api", "StreamInfo", "Streams"]

REQUEST_TIMEOUT_S = 10.0
ATTEMPT_TIMEOUT_S = 5.0

# JetStream error codes (server/errors.json of nats-server).
STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
STREAM_NAME_IN_USE = 10058
STREAM_CREATE = 10049
STREAM_STORE_FAILED = 10077
NOT_ENABLED = frozenset({10039, 10076})

NS = 1_000_000_000


@dataclass(frozen=True)
class StreamInfo:
    """A stream as the server describes it.

    `atomic` and `fast_ingest` tell whether the stream takes atomic and fast-ingest batches. `options` are its settings
    in eda's words; what eda has no word for stays untouched by `Streams.update`.
    """

    name: str
    events: int
    bytes: int
    first_sequence: int
    last_sequence: int
    created: datetime
    subjects: tuple[str, ...]
    options: StreamOptions
    atomic: bool
    fast_ingest: bool


class Api:
    """JetStream API requests within one domain."""

    def __init__(self, wire: Wire, domain: str | None) -> None:
        self.wire = wire
        self.prefix = f"$JS.{domain}.API" if domain else "$JS.API"
        self.level = 0

    async def request(
        self, verb: str, body: dict[str, Any] | None = None, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> dict[str, Any]:
        """Send one API request and return the answer; tries again while nobody responds.

        Raises ServerError with the server's own code, Timeout, Closed.
        """
        payload = msgspec.json.encode(body) if body is not None else b""
        deadline = time.monotonic() + timeout_s
        pause_s = 0.05
        while True:
            left_s = deadline - time.monotonic()
            try:
                reply = await self.wire.request(
                    f"{self.prefix}.{verb}", payload, timeout=max(min(left_s, ATTEMPT_TIMEOUT_S), 0.01)
                )
                break
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
        try:
            answer = msgspec.json.decode(reply.data, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise ServerError(500, 0, f"an answer that is no JSON object: {error}", operation=verb) from error
        refused = answer.get("error")
        if isinstance(refused, dict):
            raise ServerError(
                refused.get("code", 0), refused.get("err_code", 0), refused.get("description", ""), operation=verb
            )
        return answer

    async def look(self, timeout_s: float) -> None:
        """Ask what the server can do. Raises NotSupported when it has no JetStream."""
        server = f"nats-server {self.wire.server_version}"
        try:
            # A server that runs JetStream says so; its absence is final then, and worth no waiting.
            has_jetstream = bool(self.wire.info.get("jetstream"))
            answer = await self.request("INFO", timeout_s=timeout_s if has_jetstream else min(timeout_s, 0.5))
        except ServerError as error:
            if error.code == 503 or error.err_code in NOT_ENABLED:
                needs = "a server and account with JetStream on"
                raise NotSupported("JetStream", needs=needs, server=server) from error
            raise
        level = answer.get("api", {}).get("level", 0)
        self.level = level if isinstance(level, int) else 0

    @property
    def has_atomic(self) -> bool:
        """Whether the server takes atomic batches (2.12 and later)."""
        return self.level >= 2 and self._version() >= (2, 12)

    @property
    def has_fast_ingest(self) -> bool:
        """Whether the server takes fast-ingest batches (2.14 and later)."""
        return self.level >= 2 and self._version() >= (2, 14)

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
            return await self.request(f"CONSUMER.INFO.{stream}.{name}")
        except ServerError as error:
            if error.err_code == CONSUMER_NOT_FOUND:
                return None
            raise _translated(error, stream) from error

    async def create_consumer(
        self, stream: str, name: str, config: dict[str, Any], *, action: str = "create"
    ) -> dict[str, Any]:
        """Create (or, with action "update", change) a consumer. Raises StreamNotFound, ServerError."""
        body = {"stream_name": stream, "config": config, "action": action}
        try:
            return await self.request(f"CONSUMER.CREATE.{stream}.{name}", body)
        except ServerError as error:
            raise _translated(error, stream) from error

    async def delete_consumer(self, stream: str, name: str) -> bool:
        """Delete a consumer; returns whether there was one."""
        try:
            await self.request(f"CONSUMER.DELETE.{stream}.{name}")
        except ServerError as error:
            if error.err_code in (CONSUMER_NOT_FOUND, STREAM_NOT_FOUND):
                return False
            raise
        return True


class Streams:
    """The connection's streams: `conn.streams`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def info(self, name: str) -> StreamInfo:
        """Return the stream as it is now. Raises StreamNotFound."""
        check_stream_name(name)
        return _to_info(await self._request("INFO", name))

    async def list(self) -> list[StreamInfo]:
        """Return all streams, by name."""
        streams: list[dict[str, Any]] = []
        while True:
            answer = await self._api.request("STREAM.LIST", {"offset": len(streams)})
            page = answer.get("streams") or []
            streams += page
            if not page or len(streams) >= answer.get("total", 0):
                return sorted((_to_info(each) for each in streams), key=lambda info: info.name)

    async def create(self, name: str, options: StreamOptions | None = None) -> StreamInfo:
        """Create the stream, or return it when it exists with the same settings.

        Raises ServerError when it exists with others (err_code 10058), NotSupported when `atomic` or `fast_ingest` is
        asked of a server that has it not.
        """
        check_stream_name(name)
        config = self._to_config(name, options or StreamOptions())
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            try:
                return _to_info(await self._api.request(f"STREAM.CREATE.{name}", config))
            except ServerError as error:
                # A stream of that name was deleted just now, and its directory is still going away.
                gone = error.err_code in (STREAM_CREATE, STREAM_STORE_FAILED)
                if not gone or error.code != 500 or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.05)

    async def ensure(self, name: str, options: StreamOptions, *, create: bool) -> StreamInfo:
        """Return the stream, created with `options` where it does not exist. Never changes one that exists."""
        try:
            return await self.info(name)
        except StreamNotFound:
            if not create:
                raise
        try:
            return await self.create(name, options)
        except ServerError as error:
            if error.err_code != STREAM_NAME_IN_USE:
                raise
            return await self.info(name)  # another client was quicker

    async def update(self, name: str, options: StreamOptions) -> StreamInfo:
        """Change the settings that StreamOptions has words for; all others stay. Raises StreamNotFound, ServerError."""
        check_stream_name(name)
        config: dict[str, Any] = (await self._request("INFO", name))["config"]
        config.update(self._to_config(name, options))
        return _to_info(await self._request("UPDATE", name, config))

    async def purge(self, name: str) -> int:
        """Remove all events; returns how many. Raises StreamNotFound."""
        check_stream_name(name)
        answer = await self._request("PURGE", name)
        return int(answer.get("purged", 0))

    async def delete(self, name: str) -> None:
        """Delete the stream with everything in it. Raises StreamNotFound."""
        check_stream_name(name)
        await self._request("DELETE", name)

    async def _request(self, verb: str, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            return await self._api.request(f"STREAM.{verb}.{name}", body)
        except ServerError as error:
            raise _translated(error, name) from error

    def _to_config(self, name: str, options: StreamOptions) -> dict[str, Any]:
        server = f"nats-server {self._api.wire.server_version}"
        if options.atomic and not self._api.has_atomic:
            raise NotSupported("atomic batches", needs="nats-server 2.12 or later", server=server)
        if options.fast_ingest and not self._api.has_fast_ingest:
            raise NotSupported("fast-ingest batches", needs="nats-server 2.14 or later", server=server)
        max_age_ns = int(options.max_age_s * NS) if options.max_age_s else 0
        dedup_ns = int(options.dedup_window_s * NS)
        config: dict[str, Any] = {
            "name": name,
            "subjects": stream_subjects(name),
            "retention": "limits",
            "storage": options.storage,
            "num_replicas": options.replicas,
            "max_age": max_age_ns,
            "max_bytes": options.max_bytes if options.max_bytes is not None else -1,
            "max_msgs": options.max_events if options.max_events is not None else -1,
            # The server refuses a window longer than the events live.
            "duplicate_window": min(dedup_ns, max_age_ns) if max_age_ns else dedup_ns,
            "compression": options.compression or "none",
            "discard": options.discard,
            "allow_direct": True,
        }
        if self._api.has_atomic:
            config["allow_atomic"] = options.atomic is not False
        if self._api.has_fast_ingest:
            config["allow_batched"] = options.fast_ingest is not False
        return config


def _translated(error: ServerError, stream: str) -> Exception:
    return StreamNotFound(stream) if error.err_code == STREAM_NOT_FOUND else error


def _to_info(answer: dict[str, Any]) -> StreamInfo:
    config = answer["config"]
    state = answer["state"]
    atomic = bool(config.get("allow_atomic", False))
    fast_ingest = bool(config.get("allow_batched", False))

    def limit(key: str) -> int | None:
        value: int = config.get(key, -1)
        return value if value > 0 else None

    return StreamInfo(
        name=config["name"],
        events=state["messages"],
        bytes=state["bytes"],
        first_sequence=state["first_seq"],
        last_sequence=state["last_seq"],
        created=datetime.fromisoformat(answer["created"]),
        subjects=tuple(config.get("subjects") or ()),
        options=_to_options(config, limit("max_bytes"), limit("max_msgs"), atomic, fast_ingest),
        atomic=atomic,
        fast_ingest=fast_ingest,
    )


def _to_options(
    config: dict[str, Any], max_bytes: int | None, max_events: int | None, atomic: bool, fast_ingest: bool
) -> StreamOptions:
    compression = config.get("compression", "none")
    return StreamOptions(
        replicas=config.get("num_replicas", 1),
        storage=config.get("storage", "file"),
        max_age_s=config["max_age"] / NS if config.get("max_age") else None,
        max_bytes=max_bytes,
        max_events=max_events,
        dedup_window_s=max(config.get("duplicate_window", 0) / NS, 0.1),  # a mirror has none
        compression=None if compression == "none" else compression,
        discard=config.get("discard", "old"),
        atomic=atomic,
        fast_ingest=fast_ingest,
    )
