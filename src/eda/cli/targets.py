"""Checks whether a stream can hold a copy of events of another stream."""

from __future__ import annotations

import eda
from eda.cli.failure import Failure

__all__ = ["check_target", "is_same_stream"]


def is_same_stream(source: eda.StreamInfo, target: eda.StreamInfo) -> bool:
    """Return whether both describe one stream, also if it was reached by two addresses."""
    return (source.name, source.created) == (target.name, target.created)


def check_target(
    source: eda.StreamInfo, target: eda.StreamInfo, n_more: int | None, *, is_one_server: bool, allow_discard: bool
) -> None:
    """Raise Failure if the target can't keep `n_more` more messages from the source. None: their number is not known.

    Whether the target takes events at all is checked when a publisher to it opens.
    """
    name = target.name
    if target.retention != "limits":
        raise Failure(
            f"stream {name!r} has retention={target.retention!r}. The server removes each event that was handled, so "
            "it can't hold a copy. Use a stream with retention 'limits', as `eda streams create` makes it"
        )
    if is_one_server and source.name in (target.mirror, *target.sources):
        raise Failure(f"stream {name!r} copies stream {source.name!r} by itself: each event would be there twice")
    if is_one_server and name in (source.mirror, *source.sources):
        raise Failure(
            f"stream {source.name!r} copies stream {name!r} by itself: each event would come back as a new one"
        )
    if allow_discard:
        return
    options, limits = target.options, []
    if target.max_events_per_subject is not None:
        limits.append(f"it keeps at most {target.max_events_per_subject:,} messages of a type and aggregate")
    if n_more is not None and options.max_events is not None and target.events + n_more > options.max_events:
        limits.append(f"it keeps at most {options.max_events:,} messages and has {target.events:,}; {n_more:,} come")
    # Packs and compression change the size. So this is only an estimate, and only for a copy of the whole stream.
    is_whole = n_more is not None and n_more >= source.events
    if is_whole and options.max_bytes is not None and target.bytes + source.bytes > options.max_bytes:
        limits.append(f"it keeps at most {options.max_bytes:,} bytes and has {target.bytes:,}; {source.bytes:,} come")
    if limits:
        what = "refuse new events" if options.discard == "new" else "remove its oldest events"
        raise Failure(
            f"stream {name!r} would {what}: {'; '.join(limits)}. Raise its limits with `eda streams update`, or add "
            "--allow-discard"
        )
