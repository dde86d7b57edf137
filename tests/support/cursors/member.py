"""Members of a cursor for tests: they note which calls their cursor makes, and when."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import msgspec
import pytest

import eda
import eda.cursors.entry
import eda.cursors.held_cursor
import eda.cursors.liveness
from eda._clock import read_monotonic_ns
from eda.cursors.cursor import Cursor
from eda.cursors.position import FIRST, Position
from eda.jetstream.bucket import BUCKET, BUCKET_STREAM, Bucket
from helpers import Admin, until, wire_of

__all__ = ["Keys", "Member", "overlaps", "shorten"]

_numbers = itertools.count(1)


class Member:
    """An owner of a cursor. `told` has all calls of the cursor, as (ns, name, arguments).

    `spans` are the times in which it may handle events, in nanoseconds of the monotonic clock.
    """

    def __init__(self, conn: eda.Conn, stream: str, name: str = "n", *, filter: list[str] | None = None) -> None:
        assert conn._lifetime._services is not None
        self.told: list[tuple[int, str, tuple[Any, ...]]] = []
        self.spans: list[tuple[int, int]] = []
        self._from: int | None = None
        self.taken = FIRST  # the position at which it became active last
        self.first = 0
        self.wire = wire_of(conn)
        self.cursor = Cursor(
            self.wire,
            conn._lifetime._services.api,
            logging.getLogger("eda"),
            self,
            stream=stream,
            name=name,
            client=f"m{next(_numbers)}",
            filter=filter or [],
            bucket=Bucket(),
        )

    async def _first(self) -> Position:
        return Position(self.first)

    async def open(self, *, reset: bool = False, first: int = 0) -> Member:
        self.first = first
        await self.cursor.open(reset=reset, first_position=self._first)
        return self

    async def close(self, seq: int = 0, *, timeout_s: float = 5.0) -> bool:
        self._stop()
        return await self.cursor.close(Position(seq), timeout_s=timeout_s)

    def tells(self, what: str) -> list[tuple[Any, ...]]:
        """Return the arguments of each call of that name."""
        return [arguments for _, name, arguments in self.told if name == what]

    @property
    def story(self) -> list[str]:
        """The names of the calls, without the confirmations."""
        return [name for _, name, _ in self.told if name != "confirmed"]

    @property
    def kept(self) -> int:
        """The last position that was confirmed."""
        return max((place[0] for place, _ in self.tells("confirmed")), default=-1)

    async def active(self, timeout_s: float = 10.0) -> tuple[int, int]:
        """Wait until it is active; returns the position's sequence, and tries."""
        await until(lambda: self.cursor.is_active, timeout_s)
        position, tries, _ = self.tells("active")[-1]
        return position, tries

    def vanish(self) -> None:
        """Stop for good without giving up the cursor, like a process that dies."""
        self._stop()
        held, _ = self.cursor._stop()
        if held is not None:
            held.abandon()

    # --- what the cursor calls ---------------------------------------------------------------------------------------

    def on_active(self, position: Position, tries: int, lease_until_ns: int) -> None:
        self.taken = position
        self._note("active", position.seq, tries, lease_until_ns)
        self._start()

    def on_confirmed(self, place: tuple[int, int], lease_until_ns: int) -> None:
        self._note("confirmed", place, lease_until_ns)

    def on_fenced(self) -> None:
        self._note("fenced")
        self._stop()

    def on_unfenced(self) -> None:
        self._note("unfenced")
        self._start()

    def on_lost(self) -> None:
        self._note("lost")
        self._stop()

    def on_end(self, error: Exception) -> None:
        self._note("end", error)
        self._stop()

    def _note(self, what: str, *arguments: Any) -> None:
        self.told.append((read_monotonic_ns(), what, arguments))

    def _start(self) -> None:
        assert self._from is None, self.story
        self._from = read_monotonic_ns()

    def _stop(self) -> None:
        if self._from is not None:
            self.spans.append((self._from, read_monotonic_ns()))
            self._from = None


def overlaps(*members: Member) -> list[tuple[int, int]]:
    """Return where two members might have handled events at the same time."""
    spans = sorted(span for member in members for span in member.spans)
    return [(begin, end) for (_, end), (begin, _) in itertools.pairwise(spans) if begin < end]


class Keys:
    """A cursor's entry on the server, read and written without a cursor."""

    def __init__(self, admin: Admin, stream: str, name: str = "n") -> None:
        self.admin = admin
        self.subject = f"$KV.{BUCKET}.{stream}.{name}"

    async def get(self) -> dict[str, Any] | None:
        """Return the value; None: the key was never written, or is deleted."""
        message = await self._message()
        if message is None or ("hdrs" in message and b"KV-Operation" in msgspec.convert(message["hdrs"], bytes)):
            return None
        value: dict[str, Any] = msgspec.json.decode(msgspec.convert(message["data"], bytes))
        return value

    async def revision(self) -> int:
        message = await self._message()
        return int(message["seq"]) if message is not None else 0

    async def _message(self) -> dict[str, Any] | None:
        request = msgspec.json.encode({"last_by_subj": self.subject})
        reply = await self.admin.client.request(f"$JS.API.STREAM.MSG.GET.{BUCKET_STREAM}", request, timeout=5)
        message: dict[str, Any] | None = msgspec.json.decode(reply.data).get("message")
        return message

    async def put(self, data: bytes, headers: dict[str, str] | None = None) -> None:
        await self.admin.js.publish(self.subject, data, headers=headers)

    async def n_writes(self) -> int:
        """Return how often anything was written to the bucket."""
        return int((await self.admin.api(f"STREAM.INFO.{BUCKET_STREAM}"))["state"]["last_seq"])


def shorten(monkeypatch: pytest.MonkeyPatch, factor: float = 0.25) -> None:
    """Make all of a cursor's times shorter."""
    for module, names in {
        eda.cursors.held_cursor: ("LEASE_S", "SIGN_OF_LIFE_S", "ANSWER_S", "RETRY_S"),
        eda.cursors.entry: ("ANSWER_S", "RETRY_S"),
        eda.cursors.liveness: ("TAKEOVER_S",),
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name) * factor)
