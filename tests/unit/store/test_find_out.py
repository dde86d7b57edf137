"""What an append that has failed raises if its stream was deleted meanwhile."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

import eda
from eda.server_codes import WRONG_LAST_SEQUENCE
from eda.store._message import Message
from eda.store.appending import Appending, Refused


def appending_to_deleted() -> Appending:
    async def find(stream: str) -> None:
        raise eda.StreamNotFound(stream)

    known_streams: Any = SimpleNamespace(known={}, never_created=set(), find=find)
    api: Any = SimpleNamespace(domain="")
    return Appending(known_streams, api, logging.getLogger("test"), "ORDERS", set())


@pytest.mark.parametrize(
    "error", [eda.Timeout("publish", 0.0), eda.Closed("connection"), eda.ServerError(403, 0, "no")]
)
async def test_find_out_when_the_stream_is_gone_raises_why_the_append_has_failed(error: eda.EdaError) -> None:
    message = Message("ORDERS", "a", "added", "id", b"", 0, "")
    with pytest.raises(type(error)) as raised:
        await appending_to_deleted().find_out(message, error)
    assert raised.value is error
    if isinstance(error, eda.Timeout):  # the event may be stored
        assert (error.operation, error.event_id, error.timeout_s) == ("append", "id", 30.0)


async def test_find_out_when_the_stream_is_gone_reports_a_conflict() -> None:
    message = Message("ORDERS", "a", "added", "id", b"", 0, "")
    with pytest.raises(Refused):
        await appending_to_deleted().find_out(message, eda.ServerError(400, WRONG_LAST_SEQUENCE, "wrong last sequence"))
