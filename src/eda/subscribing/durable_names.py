"""The two kinds of subscription: which of them a stream allows, and the one name that only one of them may have."""

from __future__ import annotations

from eda.cursors.entry import CursorKey
from eda.errors import ConfigError, ServerError
from eda.jetstream.api import Api
from eda.jetstream.bucket import BUCKET
from eda.jetstream.streams import StreamInfo
from eda.jetstream.subjects import check_name, stream_subjects
from eda.options import SubscriptionOptions
from eda.server_codes import FORBIDDEN
from eda.transport.wire import Wire

__all__ = ["DurableNames", "durable_name", "is_ordered", "refuse_other_kind", "refuse_retention", "server_filter"]


class DurableNames:
    """The names under which the open durable subscriptions of a connection keep their positions."""

    def __init__(self) -> None:
        self._in_use: dict[tuple[str, str], list[bool]] = {}

    def take(self, stream: str, name: str, *, is_given: bool) -> None:
        """Note that a subscription to `stream` uses the name; not `is_given`: it is the client's.

        Two subscriptions that both forgot their name would share one position, and each would miss the events of the
        other. Raises ConfigError for the second one.
        """
        users = self._in_use.setdefault((stream, name), [])
        if users and not (is_given and all(users)):
            raise ConfigError(
                f"another durable subscription of this connection to stream {stream!r} keeps its position under the "
                f"client's name {name!r}, so the two would share their events: give each of them name=...",
                argument="name",
            )
        users.append(is_given)

    def release(self, stream: str, name: str, *, is_given: bool) -> None:
        """Take back a `take`."""
        users = self._in_use[stream, name]
        users.remove(is_given)
        if not users:
            del self._in_use[stream, name]


def durable_name(options: SubscriptionOptions, client: str | None) -> str | None:
    """Return the name that a durable subscription's position is kept under, None for others. Raises ConfigError."""
    if not options.durable or options.name is not None:
        return options.name if options.durable else None
    if client is None:
        raise ConfigError(
            "a durable subscription keeps its position under a name: give name=..., or client=... to connect()",
            argument="name",
        )
    try:
        check_name(client)
    except ConfigError as error:
        raise ConfigError(
            f"the client name {client!r} can't name a durable subscription; give name=...", argument="name"
        ) from error
    return client


def is_ordered(options: SubscriptionOptions) -> bool:
    """Whether the subscription reads the stream by itself, rather than share a consumer with others."""
    is_private = not options.durable and options.name is None
    return bool(options.serial or options.exclusive or options.key) or is_private


def server_filter(info: StreamInfo, wanted: list[str], *, filters_reliably: bool) -> list[str]:
    """Return the subjects that the server may be asked to filter by; empty: the client filters alone.

    `wanted` is what `filter_subjects` gives. The server can filter only where every event of the stream has a subject
    that begins with the stream's name. A mirror and a sourced stream keep the subjects of their origin, and a stream
    that somebody else made has subjects of its own: there such a filter would match nothing, without an error.
    """
    has_own_subjects = set(info.subjects) <= set(stream_subjects(info.name))
    is_copy = info.mirror is not None or info.sources or info.subject_transform is not None
    if not filters_reliably or is_copy or not has_own_subjects:
        return []
    if info.retention == "workqueue":
        # Two consumers of a work queue may not ask for the same subject, so none asks for the bare stream.
        return [subject for subject in wanted if subject != info.name]
    return wanted


def refuse_retention(info: StreamInfo, options: SubscriptionOptions, *, filters_reliably: bool) -> None:
    """Raise ConfigError when the stream's retention takes the subscription's promise away.

    A stream that does not keep its events until a limit removes each event that was acknowledged, and a reader without
    acknowledgements acknowledges by reading. So only consumers that acknowledge lose nothing there.
    """
    if info.retention == "limits":
        return
    where = f"stream {info.name!r} has retention={info.retention!r}, which removes an event once it is acknowledged"
    if is_ordered(options):
        asked = next((each for each in ("serial", "exclusive", "key") if getattr(options, each)), "a private one")
        raise ConfigError(
            f"{where}: an ordered subscription ({asked}) reads without acknowledging and would lose events. Use a "
            "shared one: name=... (with durable=True to keep the position), without serial, exclusive and key.",
            argument="stream",
        )
    if info.retention != "workqueue":
        return
    if not options.backfill:
        raise ConfigError(
            f"{where}: what a work queue holds is still to be handled, so a subscription begins with its first event. "
            "Use backfill=True, without start.",
            argument="backfill",
        )
    is_filtered = options.types is not None or options.aggregate is not None
    if is_filtered and not server_filter(info, [f"{info.name}.x"], filters_reliably=filters_reliably):
        raise ConfigError(
            f"{where}: the server can't filter this stream by type or aggregate, and a filter in the client would "
            "remove the events that other subscriptions wait for. Subscribe without types and aggregate.",
            argument="types" if options.types is not None else "aggregate",
        )


async def refuse_other_kind(wire: Wire, api: Api, stream: str, name: str, *, ordered: bool, reset: bool) -> None:
    """Raise ConfigError when the name has a position of the other kind; with `reset` forget that position."""
    if ordered:
        if await api.consumer_info(stream, name) is None:
            return
        if reset:
            await api.delete_consumer(stream, name)
            return
        kept, asked = "a shared one (a consumer of the stream)", "an exclusive one (exclusive, serial or key)"
    else:
        key = CursorKey(wire, api, stream, name)
        if reset:
            await key.delete()
            return
        try:
            if (await key.read()).value is None:
                return
        except ServerError as error:
            if error.code == FORBIDDEN:
                return  # who may not read positions can have none there
            raise
        kept, asked = f"an exclusive one (a key in {BUCKET})", "a shared one"
    raise ConfigError(
        f"subscription {name!r} of stream {stream!r} exists and differs: it is {kept}, the options ask for {asked}. "
        "Use another name, or reset=True to forget its position.",
        argument="name",
    )
