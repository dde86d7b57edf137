"""Fuzz target: reply subjects of deliveries ($JS.ACK…), beside a slow reader, and what is done with them."""

from __future__ import annotations

import contextlib
import re

from eda._codec import encode_event
from eda._event import Event
from eda.errors import ConfigError
from eda.jetstream.subjects import escape_token, unescape_token
from eda.transport._frame import escape_token as escape_compiled
from eda.transport._frame import parse_delivery
from support.handling.dispatching import Rig

__all__ = ["check"]

Parts = tuple[bytes, bytes, int, int, int, int, int]

PAYLOAD = encode_event(Event(type="unwanted"))
TOKEN = re.compile(rb"[^ \t\r\n]+")


def read_slowly(reply: bytes) -> Parts | None:
    """Return (stream, consumer, delivered, stream seq, consumer seq, time, pending); None where it is no delivery's."""
    tokens = reply.split(b".")
    if tokens[:2] != [b"$JS", b"ACK"] or b"" in tokens or len(tokens) == 10 or len(tokens) < 9:
        return None
    if len(tokens) > 9 and not (len(reply) <= 1024 and re.fullmatch(rb"[!-~]*", reply) and not set(reply) & set(b"*>")):
        return None
    stream, consumer, *numbers = tokens[2:9] if len(tokens) == 9 else tokens[4:11]
    if not all(re.fullmatch(rb"[0-9]{1,19}", each) and int(each) < 2**63 for each in numbers):
        return None
    delivered, stream_seq, consumer_seq, time_ns, pending = map(int, numbers)
    if delivered == 0 or stream_seq == 0:
        return None
    return stream, consumer, delivered, stream_seq, consumer_seq, time_ns, pending


def check(data: bytes) -> None:
    """Compiled and slow code agree, and nothing is published but to a reply subject of this stream and consumer."""
    found = parse_delivery(data)
    assert found == read_slowly(data), (found, read_slowly(data))
    if found is not None:
        plain = b"$JS.ACK.%b.%b.%d.%d.%d.%d.%d" % found
        assert parse_delivery(plain) == found
        longer = plain.replace(b"ACK", b"ACK.d.a", 1) + b".r.more"
        assert parse_delivery(longer) == read_slowly(longer)
    if TOKEN.fullmatch(data):
        ours = found is not None and found[:2] == (b"orders", b"me")
        check_shared(data, ours)
        check_ordered(data, ours, 0 if found is None else found[4])
    check_token(data)


def check_shared(reply: bytes, ours: bool) -> None:
    rig = Rig(start=False, types=["wanted"])
    # Of a type that is not wanted, so it is acknowledged at once.
    rig.feed(b"orders.unwanted._", reply, PAYLOAD)
    assert rig.flush() == ([(reply, b"")] if ours else [])
    assert (rig.dispatcher.intake.n_foreign, rig.dispatcher.intake.n_passed_over) == (not ours, ours)


def check_ordered(reply: bytes, ours: bool, consumer_seq: int) -> None:
    rig = Rig(start=False, ordered=True)
    rig.read_anew()
    rig.feed(b"orders.unwanted._", reply, PAYLOAD)
    assert rig.flush() == []
    assert rig.dispatcher.n_held == (ours and consumer_seq == 1)
    assert rig.gaps == ([(1, consumer_seq)] if ours and consumer_seq != 1 else [])


def check_token(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    token = escape_token(text)
    assert escape_compiled(text) == token
    assert unescape_token(token) == text
    assert TOKEN.fullmatch(token.encode())
    assert not set(token) & set(".*>")
    with contextlib.suppress(ConfigError):
        assert escape_token(unescape_token(text)) == text
