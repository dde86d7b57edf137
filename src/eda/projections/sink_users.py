"""Opens and closes sinks that several projections, views and relays of a process share."""

from __future__ import annotations

from eda.projections.sink import Sink

__all__ = ["close_sink", "open_sink"]

_N_USERS: dict[int, int] = {}  # by the id of a sink that is open, which its users keep alive


async def open_sink(sink: Sink, *, creates_tables: bool = True) -> None:
    """Open a sink for one more user. Call `close_sink` afterwards, also if this raises an error."""
    _N_USERS[id(sink)] = _N_USERS.get(id(sink), 0) + 1
    await sink.open(creates_tables=creates_tables)


async def close_sink(sink: Sink) -> None:
    """Close a sink if no other user has it open."""
    left = _N_USERS.get(id(sink), 1) - 1
    if left:
        _N_USERS[id(sink)] = left
    else:
        _N_USERS.pop(id(sink), None)
        await sink.close()
