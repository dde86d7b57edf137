"""The names of all aggregates of a stream, from the subjects under which the stream holds messages."""

from __future__ import annotations

import asyncio
import re
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator

from eda.errors import ConfigError, ServerError
from eda.jetstream.api import Api, stream_error
from eda.jetstream.schemas import Subjects
from eda.jetstream.subjects import escape_token, unescape_token
from eda.names import FORGOTTEN

__all__ = ["aggregate_names"]

PAGE_TIMEOUT_S = 60.0  # the server sorts all subjects for each page
N_AT_ONCE = 1000  # names between two turns of the event loop
MAX_PAGE = 64 * 1024 * 1024  # bytes; 100,000 subjects of 600 bytes

_FORGOTTEN_TOKEN = escape_token(FORGOTTEN)
_PLAIN = re.compile(r"[!-$&-)+\-/-=?-^`-~][!-$&-)+\-/-=?-~]*")  # printable ASCII that needs no escape; no leading `_`


async def aggregate_names(api: Api, stream: str) -> AsyncIterator[str]:
    """Yield the name of each aggregate of the stream once, in no particular order.

    Forgotten aggregates, which have a tombstone, are left out. If an aggregate gets its first event or is forgotten
    during the iteration, its name may be yielded or not. Messages on subjects of another form than that of events are
    skipped.

    The yielded names and those of forgotten aggregates are kept in memory: about 100 bytes for each. The server sends
    at most 100,000 subjects at once, and collects all of them again for each page.

    Raises StreamNotFound, ServerError, Timeout, Closed.
    """
    # The tokens of aggregates that are not yielded (again).
    passed: set[str] = {"_"}  # the empty name
    async for page in _pages(api, stream, f"{stream}.{_FORGOTTEN_TOKEN}.*"):
        passed.update(subject.rpartition(".")[2] for subject in page)
    async for page in _pages(api, stream, f"{stream}.*.*"):
        for n_done, name in enumerate(_new_names(page, stream, passed), 1):
            yield name
            if n_done % N_AT_ONCE == 0:
                await asyncio.sleep(0)  # the caller may never wait


def _new_names(subjects: list[str], stream: str, passed: set[str]) -> Iterator[str]:
    """Yield the names of aggregates that were not passed yet, and add them to those that were."""
    for subject in subjects:
        parts = subject.split(".")
        if len(parts) != 3 or parts[0] != stream or parts[2] in passed:
            continue
        token = parts[2]
        if not _PLAIN.fullmatch(parts[1]):
            try:
                unescape_token(parts[1])
            except ConfigError:
                continue
        if _PLAIN.fullmatch(token):
            name = token
        else:
            try:
                name = unescape_token(token)
            except ConfigError:
                continue
        passed.add(token)
        yield name


async def _pages(api: Api, stream: str, filter: str) -> AsyncIterator[list[str]]:
    """Yield the subjects that the filter matches, sorted, in parts. A subject may be in two parts.

    The server counts an offset from the beginning of the sorted subjects. If subjects before it were purged meanwhile,
    it skips others. So each part must begin at or before the last subject of the part before it.
    """
    last = ""
    offset = step = 0
    while True:
        body = {"subjects_filter": filter, "offset": offset}
        try:
            answer = await api.request(
                f"STREAM.INFO.{stream}",
                body,
                timeout_s=PAGE_TIMEOUT_S,
                attempt_timeout_s=PAGE_TIMEOUT_S,
                schema=Subjects,
                max_bytes=MAX_PAGE,
            )
        except ServerError as error:
            raise stream_error(error, stream) from error
        total = answer.get("total", 0)
        subjects = sorted(answer["state"].get("subjects") or ())
        if offset and (not subjects or subjects[0] > last):
            step = step * 2 or 1000
            offset = max(offset - step, 0)
            continue
        step = 0
        end = offset + len(subjects)
        new = subjects[bisect_right(subjects, last) :]
        if new:
            last = new[-1]
            yield new
        if end >= total or len(subjects) < 2:
            return
        offset = end - 1  # of the part's last subject
