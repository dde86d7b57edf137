"""The description and metadata of the consumers and streams that eda creates, for people who look at the server."""

from __future__ import annotations

from typing import Any

from eda._version import __version__

__all__ = ["CLIENT", "KIND", "PACKED", "STORE", "SUBSCRIPTION", "VERSION", "labels", "labels_of", "with_marks"]

# Keys of the metadata of a consumer or stream, kept by servers since 2.10.
SUBSCRIPTION = "eda-subscription"
CLIENT = "eda-client"
KIND = "eda-kind"
VERSION = "eda-version"
STORE = "eda-store"  # marks a stream of event stores
PACKED = "eda-packed"  # marks a stream that may have packs

MAX_TEXT = 128  # characters of a client's name; the server accepts a description of 4 KiB


def labels(kind: str, *, client: str, what: str, subscription: str = "") -> dict[str, Any]:
    """Return `description` and `metadata` for a new stream or consumer of this client.

    `kind` says to programs which kind of object it is. `what` is a text for people. The client's name may be any
    text, so it is escaped and shortened.
    """
    shown = _shown(client)
    metadata = {KIND: kind, CLIENT: shown, VERSION: __version__}
    if subscription:
        metadata[SUBSCRIPTION] = subscription
    return {"description": f"eda: {what}, made by {shown}", "metadata": metadata}


def labels_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return the description and metadata in existing settings, to be used in new settings."""
    # The server adds its own metadata.
    theirs = {key: value for key, value in (config.get("metadata") or {}).items() if not key.startswith("_nats.")}
    return {"description": config.get("description", ""), "metadata": theirs}


def with_marks(metadata: dict[str, str] | None, *, store: bool, packed: bool) -> dict[str, str]:
    """Return the metadata of a stream with the marks for event stores and for packs, or without them."""
    others = {key: value for key, value in (metadata or {}).items() if key not in (STORE, PACKED)}
    return others | ({STORE: "1"} if store else {}) | ({PACKED: "1"} if packed else {})


def _shown(text: str) -> str:
    escaped = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[: MAX_TEXT + 1])
    return escaped if len(escaped) <= MAX_TEXT else f"{escaped[: MAX_TEXT - 1]}…"
