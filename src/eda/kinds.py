"""The two kinds of subscription, and the one name that only one of them may have."""

from __future__ import annotations

from eda._wire import Wire
from eda.api import Api
from eda.cursor_key import BUCKET, CursorKey
from eda.errors import ConfigError, ServerError
from eda.options import SubscriptionOptions
from eda.subjects import check_name

__all__ = ["durable_name", "is_ordered", "refuse_other_kind"]

FORBIDDEN = 403


def durable_name(options: SubscriptionOptions, client: str | None) -> str | None:
    """Return the name that a durable subscription's offset is kept under, None for others. Raises ConfigError."""
    if not options.durable or options.name is not None:
        return options.name if options.durable else None
    if client is None:
        raise ConfigError(
            "a durable subscription keeps its offset under a name: give name=..., or client=... to connect()",
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


async def refuse_other_kind(wire: Wire, api: Api, stream: str, name: str, *, ordered: bool, reset: bool) -> None:
    """Raise ConfigError when the name has an offset of the other kind; with `reset` forget that offset."""
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
                return  # who may not read offsets can have none there
            raise
        kept, asked = f"an exclusive one (a key in {BUCKET})", "a shared one"
    raise ConfigError(
        f"subscription {name!r} of stream {stream!r} exists and differs: it is {kept}, the options ask for {asked}. "
        "Use another name, or reset=True to forget its offset.",
        argument="name",
    )
