"""Which server a command uses: its options, the environment, or a context of the nats command line.

The fields of a context: https://github.com/nats-io/jsm.go, package natscontext.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from eda.cli.failure import Failure

__all__ = [
    "Context",
    "NoContext",
    "connect_arguments",
    "context_directory",
    "context_names",
    "find_context",
    "read_context",
    "selected_context",
]

MAX_BYTES = 1 << 20  # of a file

_NAME = re.compile(r"[^/\\\x00-\x1f]{1,255}")

# The fields of a context that are a way to log in > the arguments of eda.connect.
_LOGIN = {"user": "user", "password": "password", "token": "token", "creds": "credentials", "nkey": "nkey"}
_TLS = {"ca": "tls_ca", "cert": "tls_cert", "key": "tls_key"}
# The fields whose value is the path of a file, and those whose value may refer to a secret that is kept elsewhere.
_PATHS = ("creds", "nkey", "ca", "cert", "key")
_SECRETS = ("password", "token")
# The fields that say nothing about how to connect.
_IGNORED = {"name", "description", "color_scheme", "jetstream_event_prefix"}
_USED = {"url", "jetstream_domain", "jetstream_api_prefix", *_LOGIN, *_TLS, *_IGNORED}

# A reference such as op://vault/item; a Windows path begins with one letter and a colon.
_REFERENCE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?://)?(.*)", re.DOTALL)
_API_PREFIX = re.compile(r"\$JS\.(?:([A-Za-z0-9_-]+)\.)?API")

# The ways to log in: a connection uses one of them.
_WAYS = (("user", "password"), ("token",), ("credentials",), ("nkey",))
_VARIABLES = {"user": "EDA_USER", "password": "EDA_PASSWORD", "token": "EDA_TOKEN"}


class NoContext(Failure):
    """There is no context of this name."""


@dataclass(frozen=True)
class Context:
    """A context of the nats command line. `fields` has its settings without those that are empty."""

    name: str
    path: Path
    fields: Mapping[str, Any]

    def text(self, field: str) -> str | None:
        """Return a setting that is a text; None if it is missing. Raises Failure if it has another type."""
        value = self.fields.get(field)
        if value is None or isinstance(value, str):
            return value
        raise Failure(f"the context {self.name!r} has a {field} that is not a text")

    def unusable(self) -> list[str]:
        """Return the names of the settings that eda can't use. A connection without them is not what they ask for."""
        return sorted(self.fields.keys() - _USED)

    def arguments(self) -> dict[str, Any]:
        """Return the options that this context has. Raises Failure for a setting that eda can't use."""
        if unusable := self.unusable():
            raise Failure(f"the context {self.name!r} has settings that eda can't use: {', '.join(unusable)}")
        used: dict[str, Any] = {"addr": self.text("url") or "nats://127.0.0.1:4222", "cluster": self._domain()}
        for field, argument in (_LOGIN | _TLS).items():
            value = self.text(field)
            if value is not None:
                is_path, is_secret = field in _PATHS, field in _SECRETS
                used[argument] = (
                    self._path(field, value) if is_path else self._secret(field, value) if is_secret else value
                )
        if "user" in used:
            used.setdefault("password", "")
        elif "password" in used:
            raise Failure(f"the context {self.name!r} has a password and no user")
        ways = [way[0] for way in _WAYS if used.keys() & set(way)]
        if len(ways) > 1:
            raise Failure(f"the context {self.name!r} has several ways to log in: {', '.join(ways)}")
        return {name: value for name, value in used.items() if value is not None}

    def _domain(self) -> str | None:
        """Return the JetStream domain, which a context may give as a prefix of the API. Raises Failure."""
        domain, prefix = self.text("jetstream_domain"), self.text("jetstream_api_prefix")
        if prefix is None:
            return domain
        found = _API_PREFIX.fullmatch(prefix)
        if found is None:
            raise Failure(
                f"the context {self.name!r} has a jetstream_api_prefix that eda can't use: {prefix!r}; a prefix of the "
                "form $JS.DOMAIN.API works"
            )
        if domain is not None and found[1] != domain:
            raise Failure(f"the context {self.name!r} has a jetstream_api_prefix that contradicts its jetstream_domain")
        return found[1]

    def _path(self, field: str, value: str) -> str:
        reference = _REFERENCE.fullmatch(value)
        if reference is not None and reference[1].lower() == "file":
            value = unquote(reference[2])
        elif reference is not None:
            raise self._bad_reference(field, reference[1])
        return os.path.expanduser(os.path.expandvars(value))

    def _secret(self, field: str, value: str) -> str:
        reference = _REFERENCE.fullmatch(value)
        if reference is None or reference[1].lower() not in ("env", "file", "op", "nsc", "data"):
            return value
        kind = reference[1].lower()
        if kind == "env":
            secret = os.environ.get(reference[2], "")
            if not secret:
                raise Failure(f"the context {self.name!r} takes its {field} from ${reference[2]}, which is not set")
            return secret
        if kind == "file":
            path = Path(os.path.expanduser(unquote(reference[2])))
            try:
                with path.open(encoding="utf-8") as file:
                    return file.read(MAX_BYTES).rstrip("\r\n")
            except (OSError, UnicodeDecodeError):
                raise Failure(f"the context {self.name!r} takes its {field} from {path}, which can't be read") from None
        raise self._bad_reference(field, kind)

    def _bad_reference(self, field: str, kind: str) -> Failure:
        return Failure(f"the context {self.name!r} has a {field} that eda can't use: a reference of the kind {kind!r}")

    def shown_url(self) -> str:
        """Return the addresses of its servers, without the credentials in them."""
        urls = (self.text("url") or "nats://127.0.0.1:4222").split(",")
        return ",".join(_without_credentials(url.strip()) for url in urls)

    def login(self) -> str | None:
        """Return the name of the first setting that is a way to log in: user, token, creds, nkey, …; None: none is."""
        for field in ("user", "token", "creds", "nkey", "nsc", "user_jwt"):
            if field in self.fields:
                return field
        return "url" if "@" in (self.text("url") or "") else None


def _without_credentials(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def connect_arguments(server: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of eda.connect for the options of `server_options`. Raises Failure.

    An option counts more than the context, and the context more than the environment. The context that the nats
    command line has selected is used only if nothing else names a server. A connection has one way to log in: an option
    replaces the way of the context. A context is never combined with EDA_USER, EDA_PASSWORD and EDA_TOKEN, because
    these may belong to another server.
    """
    given = {name: value for name, value in server.items() if value is not None}
    if "addr" in given and "context" in given:
        raise Failure("--addr and --context name two servers: give one of them")
    ways = [way for way in _WAYS if given.keys() & set(way)]
    if len(ways) > 1:
        raise Failure(f"{' and '.join(f'--{way[0]}' for way in ways)} are two ways to log in: give one of them")
    context = find_context(given.pop("context", None), is_needed="addr" not in given)
    if context is not None:
        taken = context.arguments()
        if ways:
            for name in ("user", "password", "token", "credentials", "nkey"):
                taken.pop(name, None)
        given = taken | given
    elif not ways or (ways == [_WAYS[0]] and "password" not in given):
        given = _from_environment(only=("password",) if ways else tuple(_VARIABLES)) | given
    tls = _tls_of(given)
    if tls is not None:
        given["tls"] = tls
    return given


def _from_environment(only: tuple[str, ...]) -> dict[str, Any]:
    """Return the credentials in the environment. Raises Failure if these are two ways to log in."""
    found = {name: value for name in only if (value := os.environ.get(_VARIABLES[name]))}
    if "token" in found and len(found) > 1:
        raise Failure("EDA_TOKEN and EDA_USER are two ways to log in: set one of them")
    return found


def context_directory() -> Path:
    """Return the directory of the contexts of the nats command line."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "nats" / "context"


def context_names() -> list[str]:
    """Return the names of all contexts, sorted."""
    try:
        return sorted(path.stem for path in context_directory().iterdir() if path.suffix == ".json" and path.is_file())
    except OSError:
        return []


def selected_context() -> str | None:
    """Return the context that the nats command line has selected; None: there is none."""
    try:
        with (context_directory().parent / "context.txt").open(encoding="utf-8") as file:
            name = file.read(1024).strip()
    except (OSError, UnicodeDecodeError):
        return None
    return name or None


def find_context(name: str | None, *, is_needed: bool = True) -> Context | None:
    """Return the context of this name, or the selected one if nothing else names a server. Raises Failure."""
    if name is None:
        if not is_needed or os.environ.get("EDA_URL") or os.environ.get("NATS_URL"):
            return None
        name = selected_context()
        if name is None:
            return None
    return read_context(name)


def read_context(name: str) -> Context:
    """Return a context of the nats command line. Raises NoContext, and Failure if it is damaged."""
    if not _NAME.fullmatch(name) or name in (".", "..") or ".." in name:
        raise NoContext(f"{name!r} is not the name of a context")
    path = context_directory() / f"{name}.json"
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(MAX_BYTES))
    except FileNotFoundError:
        known = ", ".join(context_names()[:20])
        hint = f"; there are {known}" if known else ""
        raise NoContext(f"there is no context {name!r}: the file {path} does not exist{hint}") from None
    except OSError as error:
        raise Failure(f"the context {name!r} can't be read from {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        # The error of the decoder may quote a secret.
        raise Failure(f"the context {name!r} in {path} is not JSON") from None
    if not isinstance(content, dict):
        raise Failure(f"the context {name!r} in {path} is not a JSON object")
    used = {field: value for field, value in content.items() if value not in ("", None, False, [])}
    return Context(name, path, used)


def _tls_of(given: dict[str, Any]) -> Any:
    """Take the TLS files out of the options, and return an ssl.SSLContext; None: there are none. Raises Failure."""
    ca, cert, key = (given.pop(name, None) for name in _TLS.values())
    if ca is None and cert is None and key is None:
        return None
    if (cert is None) != (key is None):
        raise Failure("a client's certificate and its key must be given together (--tls-cert and --tls-key)")
    import ssl

    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            # Without a password here, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
        files = ", ".join(str(file) for file in (ca, cert, key) if file is not None)
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
        raise Failure(f"the TLS files can't be used ({files}): {reason}") from None
    return context
