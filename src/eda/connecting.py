"""`eda.connect`: checks its arguments and makes the Conn."""

from __future__ import annotations

import logging
import os
import re
import ssl
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from eda.callbacks import check_callback
from eda.conn import Conn
from eda.conn_services import ConnectOptions
from eda.errors import ConfigError
from eda.hooked_conn import HookedConn
from eda.lifetime import ConnState
from eda.log import safe_logger
from eda.middleware.base import Middleware, check_middleware
from eda.names import DOMAIN
from eda.options import StreamOptions
from eda.transport.addresses import parse_addresses
from eda.typed.upcasters import check_upcasters

__all__ = ["connect"]

# The beginning of a secret: an nkey's seed, a .creds file, a JWT.
_SECRET = re.compile(r"S[UAONCX][A-Z2-7]{40,}|-----|eyJ")

_SILENT = logging.Logger("eda.silent")
_SILENT.addHandler(logging.NullHandler())
_DEFAULT_LOGGER = logging.getLogger("eda")


def connect(
    addr: str | Iterable[str] | None = None,
    cluster: str | None = None,
    client: str | None = None,
    *,
    logger: logging.Logger | None = _DEFAULT_LOGGER,
    tls: ssl.SSLContext | None = None,
    user: str | None = None,
    password: str | None = None,
    token: str | None = None,
    credentials: str | Path | None = None,
    nkey: str | Path | None = None,
    connect_timeout_s: float = 5.0,
    auto_create: bool = True,
    stream_defaults: StreamOptions | None = None,
    on_state: Callable[[ConnState], object] | None = None,
    middleware: Sequence[Middleware] = (),
) -> Conn:
    """Connect to NATS JetStream. Await the result, or enter it with `async with`.

    `addr`: a NATS URL, a list of them, `embedded:` or `embedded:///dir`. None stands for EDA_URL from the environment,
    then NATS_URL, then nats://127.0.0.1:4222. `cluster`: the JetStream domain. `client`: the name of this program.
    Its connection, its durable subscriptions and its events carry this name. `logger`: None logs nothing.

    `tls`, `user`, `password`, `token`, `credentials` (path of a .creds file) and `nkey` (path of a seed file) are as in
    nats-py. `auto_create`: a stream that does not exist is created with `stream_defaults`. `on_state(state)` is a plain
    function; it is called with "connected", "disconnected", "reconnected" and "closed". `middleware`: a list of
    Middleware objects, whose hooks run around each publish and each handler call.

    Raises ConfigError for arguments that can't be used. Opening the connection raises ConnectError if no server is
    reached within `connect_timeout_s` seconds, and NotSupported if the server has no JetStream. An open connection
    reconnects for ever.
    """
    addresses = parse_addresses(addr)
    cluster, client, user, password, token = map(_plain, (cluster, client, user, password, token))
    for name, value in (("cluster", cluster), ("client", client)):
        if value is not None and (not isinstance(value, str) or not value):
            raise ConfigError(f"{name} must be a text that is not empty, or None: {value!r}", argument=name)
    if cluster is not None and not DOMAIN.fullmatch(cluster):
        raise ConfigError(f"cluster must be the name of a JetStream domain: {cluster!r}", argument="cluster")
    is_number = isinstance(connect_timeout_s, int | float) and not isinstance(connect_timeout_s, bool)
    if not is_number or not 0 < connect_timeout_s <= 3600:
        raise ConfigError(
            f"connect_timeout_s must be between 0 and 3600: {connect_timeout_s!r}", argument="connect_timeout_s"
        )
    if not isinstance(auto_create, bool):
        raise ConfigError(f"auto_create must be True or False, not {auto_create!r}", argument="auto_create")
    if (user is None) != (password is None):
        raise ConfigError("user and password must be given together", argument="user" if user is None else "password")
    for name, secret in (("user", user), ("password", password), ("token", token)):
        if secret is not None and not isinstance(secret, str):
            raise ConfigError(f"{name} must be a str or None, not {type(secret).__name__}", argument=name)
    if client is not None:
        try:
            client.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"client {client!r} is not valid Unicode", argument="client") from error
    _check_type("logger", logger, logging.Logger)
    _check_type("tls", tls, ssl.SSLContext)
    _check_type("stream_defaults", stream_defaults, StreamOptions)
    check_callback("on_state", on_state)
    hooked = check_middleware(middleware)
    security: dict[str, Any] = {"tls": tls, "user": user, "password": password, "token": token}
    for name, option, path in (("credentials", "user_credentials", credentials), ("nkey", "nkeys_seed", nkey)):
        if path is not None:
            security[option] = _check_file(name, path)
    options = ConnectOptions(
        domain=cluster,
        security={key: value for key, value in security.items() if value is not None},
        timeout_s=float(connect_timeout_s),
        auto_create=auto_create,
        stream_defaults=stream_defaults or StreamOptions(),
    )
    check_upcasters()
    log = safe_logger(_SILENT if logger is None else logger)
    if hooked:
        return HookedConn(addresses, client, log, options, on_state, hooked)
    return Conn(addresses, client, log, options, on_state)


def _plain(text: str | None) -> str | None:
    """Return a text of a subclass of str, such as a StrEnum, as a plain str."""
    return str.__str__(text) if isinstance(text, str) else text


def _check_file(name: str, path: object) -> str:
    """Return the path of an existing file. Raises ConfigError, which never shows a value that may be a secret."""
    if not isinstance(path, str | Path):
        raise ConfigError(f"{name} must be the path of a file, not {type(path).__name__}", argument=name)
    text = str.__str__(path) if isinstance(path, str) else str(path)
    may_be_path = len(text) <= 1024 and text.isprintable()
    if may_be_path and os.path.isfile(text):
        return text
    if not may_be_path or _SECRET.search(text):
        raise ConfigError(f"{name} must be the path of a file, not its content", argument=name)
    raise ConfigError(f"{name}: there is no file {text!r}", argument=name)


def _check_type(name: str, value: object, wanted: type) -> None:
    if value is not None and not isinstance(value, wanted):
        raise ConfigError(f"{name} must be a {wanted.__name__} or None, not {value!r}", argument=name)
