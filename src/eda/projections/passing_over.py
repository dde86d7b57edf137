"""How far a position may move over messages that the projection's filter leaves out.

A consumer that has nothing left to deliver proves nothing: on a replicated stream its leader may be behind. So the
stream's leader is asked for the last sequence L, and then for the next message of each filter after the position. Only
if none is at or before L, all events of the projection up to L are applied.

A deposed leader may answer for a moment as if it still led the stream. So on a replicated stream the leader is asked
once more at the end: it must be the same server, and still know sequence L.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import NamedTuple

from eda.errors import ServerError
from eda.jetstream.api import Api, stream_error
from eda.jetstream.stream_info import StreamInfo
from eda.log import with_fields
from eda.projections.stream_check import StreamNow, stream_now
from eda.server_codes import FORBIDDEN, MESSAGE_NOT_FOUND
from eda.subscribing.filters import server_filter

__all__ = ["PassingOver", "Reached"]

FORBIDS = (
    "projection %s can't move its position in stream %s over events that its filter leaves out, so wait_for may wait "
    "for them in vain: %s"
)


class Reached(NamedTuple):
    """A message that a projection may move to. `time`: when the stream stored it, in ns; 0: not known."""

    sequence: int
    time: int


class PassingOver:
    """Finds how far the positions of one projection may move in one stream.

    `wanted`: the subjects that the projection asks for, as `filter_subjects` returns them; empty: all.
    """

    def __init__(self, api: Api, stream: str, wanted: Sequence[str], logger: logging.Logger, label: str) -> None:
        self._api = api
        self._stream = stream
        self._wanted = list(wanted)
        self._logger = with_fields(logger, eda_stream=stream, eda_projection=label)
        self._label = label
        self.is_forbidden: bool = False  # the server does not let us look, so positions stay behind

    @property
    def has_filter(self) -> bool:
        """Return whether the projection leaves out any events."""
        return bool(self._wanted)

    async def reach(self, position: int) -> Reached | None:
        """Return where the position may move to if all messages that were received are applied up to `position`.

        None: it can't move now. There are no later messages, or the next message that the filter matches, which is
        about to be delivered, is before the stream's end. Or only eda itself can filter this stream: then every message
        is delivered, and the subscription's own position moves over those that don't match.

        Raises StreamNotFound, ServerError, Timeout, Closed.
        """
        if self.is_forbidden:
            return None
        now = await stream_now(self._api, self._stream)
        last = now.info.last_sequence
        if last <= position:
            return None
        question = f"{self._api.prefix}.STREAM.MSG.GET.{self._stream}"
        self._api.wire.may_be_forbidden.add(question)
        try:
            found = await asyncio.gather(*(self._next(each, position + 1) for each in self._filters(now.info)))
        except ServerError as error:
            if error.code != FORBIDDEN:
                raise
            self.is_forbidden = True
            self._logger.warning(FORBIDS, self._label, self._stream, error)
            return None
        finally:
            self._api.wire.may_be_forbidden.discard(question)
        if any(0 < sequence <= last for sequence in found) or not await self._is_led_as_before(now):
            return None
        return Reached(last, now.info.last_time_ns)

    def _filters(self, info: StreamInfo) -> list[str]:
        """Return the subjects to ask for. Each is asked for alone, which servers of every version answer reliably."""
        return server_filter(info, self._wanted, filters_reliably=True) or [">"]

    async def _is_led_as_before(self, before: StreamNow) -> bool:
        if not before.leader or before.info.options.replicas == 1:
            return True
        now = await stream_now(self._api, self._stream)
        is_same = (now.leader, now.created) == (before.leader, before.created)
        return is_same and now.info.last_sequence >= before.info.last_sequence

    async def _next(self, subject: str, sequence: int) -> int:
        """Return the sequence of the next message on a subject, as the leader knows it; 0: there is none."""
        try:
            return (await self._api.message(self._stream, {"seq": sequence, "next_by_subj": subject})).seq
        except ServerError as error:
            if error.err_code == MESSAGE_NOT_FOUND:
                return 0
            raise stream_error(error, self._stream) from error
