"""Whether some events of a stream may be purged, and the others kept."""

from __future__ import annotations

from eda.errors import ConfigError
from eda.jetstream.stream_info import StreamInfo
from eda.jetstream.subjects import is_covered, stream_subjects

__all__ = ["check_partial_purge"]


def check_partial_purge(info: StreamInfo, *, before: int | None, keep: int | None, aggregate: str | None) -> None:
    """Raise ConfigError if the purge would remove the wrong events, or some that others need."""
    where = f"stream {info.name!r}"
    if info.options.store:
        if aggregate is not None:
            raise ConfigError(
                f"{where} belongs to event stores, whose snapshots and caches know the aggregate {aggregate!r}: remove "
                f"it with conn.store({info.name!r}).forget(...)",
                argument="aggregate",
            )
        option = "before" if before is not None else "keep"
        value = before if before is not None else keep
        raise ConfigError(
            f"{option}={value}: {where} belongs to event stores, which need all events of an aggregate", argument=option
        )
    if aggregate is None:
        return
    if info.options.packed:
        raise ConfigError(
            f"{where} is packed: the events of the aggregate {aggregate!r} may be in packs with those of others, and "
            "the server removes only whole packs",
            argument="aggregate",
        )
    if not all(is_covered(subject, stream_subjects(info.name)) for subject in info.subjects) or not info.subjects:
        raise ConfigError(
            f"{where} does not have the subjects of events ({info.name}.<type>.<aggregate>), so the server can't find "
            f"the aggregate {aggregate!r}",
            argument="aggregate",
        )
