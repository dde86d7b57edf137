"""Lists of streams and of consumers, which the server gives page by page."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec

from eda.errors import ServerError, Timeout
from eda.jetstream.api import REQUEST_TIMEOUT_S, Api, stream_error
from eda.jetstream.schemas import ConsumerPage, StreamPage

__all__ = ["LIST_TIMEOUT_S", "Page", "consumers_of", "every_stream", "stream_pages"]

LIST_TIMEOUT_S = 60.0
MOST_NAMED = 10  # of those that are left out, in the log


@dataclass(frozen=True)
class Page:
    """A page of a list."""

    found: list[dict[str, Any]]
    """what the server says about each one that no earlier page had"""
    missing: list[str]
    """the names of those whose servers are away, or elect a leader. Of some, the cluster itself tells the settings"""
    began_ns: int
    """when the page was asked for; `time.time_ns`"""
    ended_ns: int
    """when it came"""


async def stream_pages(api: Api, *, timeout_s: float = REQUEST_TIMEOUT_S) -> AsyncGenerator[Page, None]:
    """Yield the pages of the list of all streams. `timeout_s` is for each page.

    Raises ServerError, Timeout (after 60 s at most), Closed.
    """
    reading = _pages(api, "STREAM.LIST", StreamPage, "streams", "listing the streams", timeout_s)
    async for page in reading:
        yield page


async def every_stream(api: Api) -> AsyncIterator[dict[str, Any]]:
    """Yield what the server says about each stream. Streams about which nobody answers are left out and logged.

    Raises what `stream_pages` raises.
    """
    missing: list[str] = []
    async for page in stream_pages(api):
        missing += page.missing
        for each in page.found:
            if each["config"]["name"] not in page.missing:
                yield each
    _tell_missing(api, "streams", missing)


async def consumers_of(api: Api, stream: str) -> list[dict[str, Any]]:
    """Return what the server says about each consumer. Consumers about which nobody answers are left out and logged.

    Raises StreamNotFound, ServerError, Timeout (after 60 s at most), Closed.
    """
    found: list[dict[str, Any]] = []
    missing: list[str] = []
    what = f"listing the consumers of {stream}"
    try:
        async for page in _pages(api, f"CONSUMER.LIST.{stream}", ConsumerPage, "consumers", what, REQUEST_TIMEOUT_S):
            found += [each for each in page.found if each["name"] not in page.missing]
            missing += page.missing
    except ServerError as error:
        raise stream_error(error, stream) from error
    _tell_missing(api, f"consumers of stream {stream}", missing)
    return found


async def _pages(
    api: Api, request: str, schema: type[msgspec.Struct], key: str, what: str, timeout_s: float
) -> AsyncGenerator[Page, None]:
    known: set[str] = set()
    n_seen = 0
    deadline = time.monotonic() + LIST_TIMEOUT_S
    while time.monotonic() < deadline:
        began_ns = time.time_ns()
        answer = await api.request(request, {"offset": n_seen}, timeout_s=timeout_s, schema=schema)
        ended_ns = time.time_ns()
        found = {_name_of(each): each for each in answer.get(key) or []}
        missing = set(answer.get("missing") or [])
        n_seen, n_known = n_seen + len(found.keys() | missing), len(known)
        new = [each for name, each in found.items() if name not in known]
        yield Page(new, sorted(missing - known), began_ns, ended_ns)
        known |= found.keys() | missing
        if n_seen >= answer.get("total", 0) or len(known) == n_known:
            return
    raise Timeout(what, LIST_TIMEOUT_S)


def _name_of(answer: dict[str, Any]) -> str:
    name: str = answer["name"] if "name" in answer else answer["config"]["name"]
    return name


def _tell_missing(api: Api, what: str, missing: list[str]) -> None:
    if missing:
        shown = ", ".join(missing[:MOST_NAMED]) + (", …" if len(missing) > MOST_NAMED else "")
        level = api.seldom.level(logging.WARNING, f"{what}: {shown}")
        api.wire.logger.log(level, "no server answers for %d %s, left out of a list: %s", len(missing), what, shown)
