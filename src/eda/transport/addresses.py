"""The `addr` argument or the environment > server URLs, and the credentials in them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from eda.errors import ConfigError

__all__ = ["DEFAULT_URL", "EMBEDDED", "Addresses", "parse_addresses"]

DEFAULT_URL = "nats://127.0.0.1:4222"
EMBEDDED = "embedded:"


@dataclass(frozen=True)
class Addresses:
    """Server URLs without credentials, and the credentials that they contained."""

    urls: tuple[str, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    embedded_dir: str | None = None
    embedded: bool = False

    def __str__(self) -> str:
        return ", ".join(self.urls) if self.urls else EMBEDDED


def parse_addresses(addr: str | Iterable[str] | None) -> Addresses:
    """Return the addresses in `addr`: a URL, several URLs, `embedded:`, or None for the URL in the environment.

    A URL may leave out the scheme (nats) and the port (4222). Raises ConfigError, which names the URL without its
    credentials.
    """
    if addr is None:
        addr = os.environ.get("EDA_URL") or os.environ.get("NATS_URL") or DEFAULT_URL
    if not isinstance(addr, str | Iterable):
        raise ConfigError(f"addr must be a URL or a list of URLs, not {type(addr).__name__}", argument="addr")
    given = [part.strip() for part in str.__str__(addr).split(",")] if isinstance(addr, str) else list(addr)
    given = [str.__str__(url) if isinstance(url, str) else url for url in given]
    if not given:
        raise ConfigError("addr is an empty list", argument="addr")
    if isinstance(given[0], str) and given[0].startswith(EMBEDDED):
        return _parse_embedded(given)
    parsed = [_parse_url(url) for url in given]
    credentials = {(user, password) for _, user, password in parsed if user is not None}
    if len(credentials) > 1:
        raise ConfigError("addr: the URLs have different credentials; a connection uses only one", argument="addr")
    user, password = credentials.pop() if credentials else (None, None)
    urls = tuple(url for url, _, _ in parsed)
    if user is not None and password is None:
        return Addresses(urls, token=user)
    return Addresses(urls, user=user, password=password)


def _parse_embedded(given: list[str]) -> Addresses:
    rest = given[0][len(EMBEDDED) :]
    if len(given) > 1:
        raise ConfigError("addr: an embedded server can't be combined with others", argument="addr")
    if rest in ("", "//"):
        return Addresses((), embedded=True)
    if not rest.startswith("///"):
        raise ConfigError(f"addr: {given[0]!r} is neither 'embedded:' nor 'embedded:///dir'", argument="addr")
    path = unquote(rest[2:])
    if sys.platform == "win32" and path[2:3] == ":":
        path = path[1:]  # embedded:///C:/dir
    return Addresses((), embedded=True, embedded_dir=path)


def _parse_url(url: object) -> tuple[str, str | None, str | None]:
    if not isinstance(url, str):
        raise ConfigError(f"addr must be a URL or a list of URLs, not {type(url).__name__}", argument="addr")
    full = url if "://" in url else f"nats://{url}"
    # Errors show only the scheme and the text after the last @, so they never show a password.
    shown = full.partition("://")[0] + "://" + full.partition("://")[2].rpartition("@")[2]
    parts = _split(full)
    if parts is None:
        # If the user forgot the host, the text after the colon may be a password. So the error shows neither this text
        # nor Python's error, which quotes it.
        scheme, _, rest = shown.partition("://")
        if not rest.startswith("["):
            shown = f"{scheme}://{rest.partition(':')[0]}"
        raise ConfigError(f"addr: {shown!r} is not a URL, or its port is not a number", argument="addr")
    host, port = parts.hostname, parts.port
    if parts.scheme not in ("nats", "tls"):
        raise ConfigError(f"addr: {shown!r} has the scheme {parts.scheme!r}; nats and tls are known", argument="addr")
    if not host or any(char.isspace() or ord(char) < 32 for char in full):
        raise ConfigError(f"addr: {shown!r} names no host", argument="addr")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError(f"addr: {shown!r} has more than a host and a port", argument="addr")
    if port == 0:
        raise ConfigError(f"addr: {shown!r} has port 0", argument="addr")
    where = f"[{host}]" if ":" in host else host
    user = unquote(parts.username) if parts.username is not None else None
    password = unquote(parts.password) if parts.password is not None else None
    return f"{parts.scheme}://{where}:{port or 4222}", user, password


def _split(url: str) -> SplitResult | None:
    """Return the parts of a URL; None if the URL or its port is invalid."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018
    except ValueError:
        return None
    return parts
