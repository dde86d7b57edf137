"""Expectations: what the server must find for a message to be stored, and whether it does."""

from __future__ import annotations

from typing import NamedTuple

from eda.errors import ServerError
from eda.jetstream.api import Api
from eda.server_codes import MESSAGE_NOT_FOUND

__all__ = ["Expectation", "holds"]


class Expectation(NamedTuple):
    """The last message of `filter` must have this sequence. 0: there must be no such message."""

    filter: str
    sequence: int


async def holds(api: Api, stream: str, expectation: Expectation) -> bool:
    """Return whether the expectation holds in the stream. Raises ServerError, Timeout, Closed.

    A refusal names no domain. If the expectation holds, a stream of the same name in another domain has refused the
    message, or an earlier write was still under way.
    """
    try:
        last = (await api.message(stream, {"last_by_subj": expectation.filter})).seq
    except ServerError as error:
        if error.err_code != MESSAGE_NOT_FOUND:
            raise
        last = 0
    return last == expectation.sequence
