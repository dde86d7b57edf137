"""Where the embedded server listens: the checks of host, port and token, and the address that clients use."""

from __future__ import annotations

import ipaddress
import re

from eda.errors import ConfigError

__all__ = ["bracketed", "check_address", "reachable"]

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def check_address(host: object, port: object, token: object, *, has_authorization: bool) -> None:
    """Raise ConfigError for a host, port or token that the embedded server can't have."""
    if not isinstance(host, str) or not (_is_address(host) or _HOST_NAME.fullmatch(host)):
        raise ConfigError(f"host must be an IP address or the name of a host, not {host!r}", argument="host")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise ConfigError(f"port must be an int from 0 to 65535, not {port!r}", argument="port")
    if token is not None and not isinstance(token, str):
        raise ConfigError(f"token must be a str or None, not {type(token).__name__}", argument="token")
    if token and has_authorization:
        raise ConfigError("token can't be combined with authorization in config", argument="token")
    if token and not (token.isprintable() and token.isascii() and " " not in token and len(token) <= 1024):
        raise ConfigError("token must have at most 1024 ASCII characters, without blanks", argument="token")
    if token == "" and not has_authorization and not _is_loopback(host):
        message = f"host {host!r} can be reached from other machines, so the server needs a token"
        raise ConfigError(message, argument="token")


def _is_loopback(host: str) -> bool:
    """Return whether only programs of this machine reach the host."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def reachable(host: str) -> str:
    """Return the host for a URL: a server that listens everywhere is reached on loopback."""
    if _is_address(host) and ipaddress.ip_address(host).is_unspecified:
        return "127.0.0.1" if "." in host else "[::1]"
    return bracketed(host)


def bracketed(host: str) -> str:
    """Return the host as it is written before a port."""
    return f"[{host}]" if ":" in host else host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host
