"""Which server a command uses: its options, the environment, or a context of the nats command line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eda.cli.failure import Failure

__all__ = ["connect_arguments", "context_directory", "read_context", "selected_context"]

MAX_BYTES = 1 << 20  # of a context file

_NAME = re.compile(r"[^/\\\x00-\x1f]{1,255}")

# The fields of a context that become arguments of eda.connect.
_TAKEN = {
    "url": "addr",
    "user": "user",
    "password": "password",
    "token": "token",
    "creds": "credentials",
    "nkey": "nkey",
    "jetstream_domain": "cluster",
}
_TLS = {"ca": "tls_ca", "cert": "tls_cert", "key": "tls_key"}
# The fields that say nothing about how to connect.
_IGNORED = {"description", "color_scheme", "jetstream_event_prefix"}


def connect_arguments(server: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of eda.connect for the options of `server_options`. Raises Failure.

    An option counts more than the context, and the context more than EDA_URL and NATS_URL. The context that the nats
    command line has selected is used only if nothing else names a server.
    """
    given = {name: value for name, value in server.items() if value is not None}
    name = given.pop("context", None)
    if name is None and "addr" not in given and not (os.environ.get("EDA_URL") or os.environ.get("NATS_URL")):
        name = selected_context()
    if name is not None:
        if "addr" in server and server["addr"] is not None:
            raise Failure("--addr and --context name two servers: give one of them")
        given = read_context(name) | given
    tls = _tls_of(given)
    if tls is not None:
        given["tls"] = tls
    return given


def context_directory() -> Path:
    """Return the directory of the contexts of the nats command line."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "nats" / "context"


def selected_context() -> str | None:
    """Return the context that the nats command line has selected; None: there is none."""
    try:
        name = (context_directory().parent / "context.txt").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return name or None


def read_context(name: str) -> dict[str, Any]:
    """Return the options that a context of the nats command line has. Raises Failure."""
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise Failure(f"{name!r} is not the name of a context")
    path = context_directory() / f"{name}.json"
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(MAX_BYTES))
    except FileNotFoundError:
        raise Failure(f"there is no context {name!r}: the file {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise Failure(f"the context {name!r} can't be read from {path}: {error}") from None
    if not isinstance(content, dict):
        raise Failure(f"the context {name!r} in {path} is not a JSON object")
    used = {field: value for field, value in content.items() if value not in ("", None, False)}
    unknown = sorted(used.keys() - _TAKEN.keys() - _TLS.keys() - _IGNORED)
    if unknown:
        raise Failure(f"the context {name!r} has settings that eda can't use: {', '.join(unknown)}")
    known = _TAKEN | _TLS
    return {known[field]: value for field, value in used.items() if field in known}


def _tls_of(given: dict[str, Any]) -> Any:
    """Take the TLS files out of the options, and return an ssl.SSLContext; None: there are none. Raises Failure."""
    ca, cert, key = (given.pop(name, None) for name in _TLS.values())
    if ca is None and cert is None and key is None:
        return None
    if (cert is None) != (key is None):
        raise Failure("--tls-cert and --tls-key must be given together")
    import ssl

    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise Failure(f"the TLS files can't be used: {error}") from None
    return context
