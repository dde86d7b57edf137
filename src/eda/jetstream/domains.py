"""The JetStream domains that a connection reaches, also through leaf nodes."""

from __future__ import annotations

import msgspec

from eda.jetstream.ask_all import ask_all
from eda.names import DOMAIN
from eda.transport.wire import Wire

__all__ = ["domains_within_reach"]

QUESTION = "$SYS.REQ.USER.INFO"  # each server that the account reaches answers to it for itself
ANSWERS_S = 0.5
MAX_DOMAINS = 100


class _Server(msgspec.Struct):
    domain: str = ""


class _Answer(msgspec.Struct):
    server: _Server = msgspec.field(default_factory=_Server)


_decode = msgspec.json.Decoder(_Answer).decode


async def domains_within_reach(wire: Wire) -> set[str]:
    """Return the domains of the servers that answer within 0.5 s; none if the server forbids us to ask.

    Raises Closed.
    """
    found: set[str] = set()

    def take(answer: bytes) -> None:
        try:
            domain = _decode(answer).server.domain
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return  # it makes no sense
        if DOMAIN.fullmatch(domain) and len(found) < MAX_DOMAINS:
            found.add(domain)

    inbox = wire.new_inbox()
    with wire.may_be_forbidden.during([QUESTION, inbox]):
        await ask_all(wire, QUESTION, b"", inbox, take, ANSWERS_S)
    return found
