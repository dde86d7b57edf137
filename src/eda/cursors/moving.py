"""Moves the position of a cursor from outside, while no member or any number of members of the subscription are open.

To its members, a move looks as if another member had taken the cursor over, moved the position and given it up. So they
need to know nothing of moves. One conditional write moves the position: before it the old position holds, and after it
the new one, whatever happens to the program that moves it.

If the cursor had a holder, the write names a holder of its own, which stays for as long as a handler of the old holder
may run. After that a second write gives the cursor up. If the second write is missing, a standby takes over in time.
"""

from __future__ import annotations

import asyncio
from datetime import datetime

import msgspec

from eda._nuid import next_nuid
from eda.cursors.entry import CursorEntry, is_stored
from eda.cursors.liveness import TAKEOVER_S
from eda.cursors.position import Position
from eda.cursors.value import CursorValue, Snapshot, encode_value, new_value
from eda.errors import Timeout

__all__ = ["MOVE_TIMEOUT_S", "give_up_move", "is_held", "move_cursor"]

MOVE_TIMEOUT_S = 10.0
MOVER = "eda-move"


def is_held(snapshot: Snapshot, now: datetime) -> bool:
    """Return whether a living holder seems to hold the cursor. `now` is the time of the server.

    A holder writes every second. Without a write for 5 s it counts as gone.
    """
    if snapshot.value is None or not snapshot.value.holder:
        return False
    return snapshot.stored is None or (now - snapshot.stored).total_seconds() < TAKEOVER_S


async def move_cursor(
    entry: CursorEntry, snapshot: Snapshot, position: Position, created: str, *, packed: bool
) -> tuple[CursorValue, int]:
    """Write the position, in place of whatever the cursor has now. Return the written value and its revision.

    `snapshot` is the entry as it was last read, and has a value. `created`: when the stream was created. `packed`: it
    is a packed one. If the returned value has a holder, pass it to `give_up_move`.

    Raises Timeout if the holder always writes between a read and the write; ServerError, ConfigError, Closed.
    """
    mover = f"{MOVER}-{next_nuid()}"
    try:
        async with asyncio.timeout(MOVE_TIMEOUT_S):
            while True:
                old = snapshot.value
                if old is None:  # somebody has deleted the cursor meanwhile
                    old = new_value(position, 0, "", 0, [], created)
                value = new_value(
                    position, old.epoch + 1, mover if old.holder else "", 0, old.filter, created,
                    has_packs=packed or old.has_packs,
                )  # fmt: skip
                answer, _ = await entry.put(value, snapshot.revision)
                if is_stored(answer):
                    return value, answer.seq
                snapshot = await entry.read()
                if snapshot.text == encode_value(value):  # the answer was lost
                    return value, snapshot.revision
    except TimeoutError as error:
        if isinstance(error, Timeout):
            raise
        what = f"moving the cursor {entry.stream}.{entry.name}, which its holder writes all the time"
        raise Timeout(what, MOVE_TIMEOUT_S) from error


async def give_up_move(entry: CursorEntry, value: CursorValue, revision: int) -> None:
    """Wait until no handler of the old holder can run any more, and give the cursor up.

    If another member has written the cursor meanwhile, nothing is written. Raises Timeout if the server does not store
    a write for 10 s; ServerError, Closed. Even then the position is moved.
    """
    # A sign of life, or a standby would take the cursor over from a silent holder at the same time, and count a try.
    for holder in (value.holder, ""):
        await asyncio.sleep(TAKEOVER_S / 2)
        new = msgspec.structs.replace(value, holder=holder)
        try:
            async with asyncio.timeout(MOVE_TIMEOUT_S):
                written = await _write_again(entry, new, value, revision)
        except TimeoutError as error:
            late = error
            if not isinstance(error, Timeout):
                late = Timeout(f"giving up the moved cursor {entry.stream}.{entry.name}", MOVE_TIMEOUT_S)
            late.add_note(f"the position is moved, and the members go on there {TAKEOVER_S:g} s later")
            raise late from error.__cause__
        if not written:
            return
        revision = written


async def _write_again(entry: CursorEntry, new: CursorValue, held: CursorValue, revision: int) -> int:
    """Write over the value that this mover holds. Return the revision; 0 if the cursor is not held by it any more."""
    while True:
        answer, _ = await entry.put(new, revision)
        if is_stored(answer):
            return answer.seq
        snapshot = await entry.read()
        found = snapshot.value
        if found is None or (found.epoch, found.holder) != (held.epoch, held.holder):
            return 0
        revision = snapshot.revision
