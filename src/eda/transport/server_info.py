"""The checks of a server's INFO line, which may contain anything if the peer is not a NATS server.

Source: https://docs.nats.io/reference/reference-protocols/nats-protocol (INFO).
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

__all__ = ["check_info", "usable_urls"]

MAX_URLS = 1000

_Text = Annotated[str, msgspec.Meta(max_length=1024)]


class _Info(msgspec.Struct):
    """The fields that nats-py and eda read. In the server, `max_payload` is a 32-bit number."""

    server_id: _Text = ""
    version: _Text = ""
    nonce: _Text = ""
    domain: _Text = ""
    max_payload: Annotated[int, msgspec.Meta(gt=0, le=2**31 - 1)] = 1
    client_id: Annotated[int, msgspec.Meta(ge=0)] = 0
    client_ip: _Text = ""
    auth_required: bool = False
    tls_required: bool = False
    tls_available: bool = False
    headers: bool = False
    jetstream: bool = False
    ldm: bool = False
    connect_urls: list[str] | None = None


def check_info(info: object) -> None:
    """Raise ValueError, naming the field, if a field has a wrong type or range."""
    try:
        msgspec.convert(info, _Info)
    except msgspec.ValidationError as error:
        raise ValueError(f"an invalid INFO line: {error}") from error


def usable_urls(info: dict[str, Any]) -> list[str]:
    """Return the addresses of other servers, out of the first 1,000, that consist of a host and a port only."""
    return [url for url in (info.get("connect_urls") or [])[:MAX_URLS] if _is_address(url)]


def _is_address(url: str) -> bool:
    if not url.isascii() or any(char in url for char in "@/?#\\") or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(f"nats://{url}")
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
