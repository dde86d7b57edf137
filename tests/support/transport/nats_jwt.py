"""Credentials as `nsc` makes them: nkeys, and the JWTs of operator, account and user, for a server of a test's own.

Sources: https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt, and the claims of
nats-io/jwt, version 2.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys

__all__ = ["Operator", "User", "new_key", "seed_of"]

UNLIMITED: dict[str, Any] = {"subs": -1, "data": -1, "payload": -1}
ACCOUNT_LIMITS = {
    **UNLIMITED,
    "imports": -1,
    "exports": -1,
    "wildcards": True,
    "conn": -1,
    "leaf": -1,
    "mem_storage": -1,
    "disk_storage": -1,
    "streams": -1,
    "consumer": -1,
}

# The system account can't have it.
NO_JETSTREAM = {"mem_storage": 0, "disk_storage": 0, "streams": 0, "consumer": 0}


def new_key(prefix: int) -> nkeys.KeyPair:
    """Make a key: of a user (nkeys.PREFIX_BYTE_USER), an account or an operator."""
    return nkeys.from_seed(bytearray(nkeys.encode_seed(secrets.token_bytes(32), prefix)))


def seed_of(key: nkeys.KeyPair) -> str:
    return bytes(key.seed).decode()


def _public(key: nkeys.KeyPair) -> str:
    return bytes(key.public_key).decode()


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _sign(issuer: nkeys.KeyPair, subject: nkeys.KeyPair, name: str, claims: dict[str, Any]) -> str:
    body = {
        "jti": secrets.token_hex(16).upper(),
        "iat": int(time.time()),
        "iss": _public(issuer),
        "name": name,
        "sub": _public(subject),
        "nats": {"version": 2, **claims},
    }
    signed = ".".join(_base64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
    return f"{signed}.{_base64(issuer.sign(signed.encode()))}"


@dataclass(frozen=True)
class User:
    """A user of an account: its JWT and its seed."""

    jwt: str
    seed: str

    def write(self, path: Path) -> Path:
        """Write the .creds file."""
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{self.jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.seed}\n------END USER NKEY SEED------\n"
        )
        return path


class Operator:
    """An operator with one account that has JetStream. `config` goes to the server."""

    def __init__(self) -> None:
        self._key = new_key(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = new_key(nkeys.PREFIX_BYTE_ACCOUNT)
        system = new_key(nkeys.PREFIX_BYTE_ACCOUNT)
        preload = {
            _public(self._account): _sign(
                self._key, self._account, "account", {"type": "account", "limits": ACCOUNT_LIMITS}
            ),
            _public(system): _sign(
                self._key, system, "SYS", {"type": "account", "limits": ACCOUNT_LIMITS | NO_JETSTREAM}
            ),
        }
        self.config: dict[str, Any] = {
            "operator": _sign(self._key, self._key, "operator", {"type": "operator"}),
            "system_account": _public(system),
            "resolver": "MEMORY",
            "resolver_preload": preload,
            "authorization": None,
        }

    def user(self, name: str, *, issued_by_another: bool = False, **permissions: Any) -> User:
        """Make a user; `permissions` are `pub` and `sub` with lists `allow` and `deny`."""
        key = new_key(nkeys.PREFIX_BYTE_USER)
        issuer = new_key(nkeys.PREFIX_BYTE_ACCOUNT) if issued_by_another else self._account
        return User(_sign(issuer, key, name, {"type": "user", **UNLIMITED, **permissions}), seed_of(key))
