"""Fills streams with the events of many orders, as fast as a bare socket stores them."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import bare
import bare_store
import eda
from eda._codec import encode_event
from eda._nuid import next_nuid
from eda.store._earlier import EARLIER, value_of, with_all
from macro.store.orders import Added, Paid, Placed

__all__ = ["Filling", "fill", "name_of"]

N_UNDER_WAY = 5000  # messages that are sent and not yet acknowledged
N_PER_CHUNK = 1000
INBOX = b"_INBOX.filler000000000000000000"
TIME_NS = 1_700_000_000_000_000_000
FIRST, BETWEEN, LAST = (eda.Event(data=payload()) for payload in (Placed, Added, Paid))


@dataclass(frozen=True)
class Filling:
    """Which aggregates a stream has.

    The aggregates 0 to `n_tens` - 1 have ten events each. If `n_long` is not 0, the next aggregate has so many. The
    others share the rest.
    """

    stream: str
    n_aggregates: int
    n_events: int
    n_tens: int = 100
    n_long: int = 0

    @property
    def tens(self) -> list[str]:
        """Return the names of the aggregates of ten events."""
        return [name_of(i) for i in range(self.n_tens)]

    @property
    def long(self) -> str:
        """Return the name of the aggregate of `n_long` events."""
        return name_of(self.n_tens)

    def sizes(self) -> list[int]:
        """Return the number of events of each aggregate."""
        first = [10] * self.n_tens + [self.n_long] * bool(self.n_long)
        n_left = self.n_aggregates - len(first)
        each, more = divmod(self.n_events - sum(first), n_left)
        return [*first, *([each + 1] * more), *([each] * (n_left - more))]


def name_of(number: int) -> str:
    """Return the name of an aggregate."""
    return f"order-{number}"


def chunks(filling: Filling) -> Iterator[list[bytes]]:
    """Yield the frames of all events in chunks. The aggregates are mixed at random; each one's versions ascend."""
    sizes = filling.sizes()
    order = array("I", [number for number, size in enumerate(sizes) for _ in range(size)])
    random.Random(16).shuffle(order)
    versions = array("I", bytes(4 * len(sizes)))
    earlier: dict[int, str] = {}  # of the aggregates that are not complete
    stream = filling.stream.encode()
    sequence = 0
    for begin in range(0, len(order), N_PER_CHUNK):
        frames = []
        for number in order[begin : begin + N_PER_CHUNK]:
            version = versions[number] = versions[number] + 1
            aggregate = name_of(number)
            event = FIRST if version == 1 else LAST if version == sizes[number] else BETWEEN
            event = event.replace(aggregate=aggregate)
            envelope = encode_event(event, next_nuid(), "bench", TIME_NS, version)
            subject = b"%b.%b.%b" % (stream, event.type.encode(), aggregate.encode())
            named = earlier.get(number, "")
            headers = b"NATS/1.0\r\n%b: %b\r\n\r\n" % (EARLIER.encode(), value_of(named).encode())
            n_total = len(headers) + len(envelope)
            frames.append(b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject, INBOX, len(headers), n_total, headers, envelope))
            sequence += 1
            if version == sizes[number]:
                earlier.pop(number, None)
            else:
                earlier[number] = with_all(named, (sequence,))
        yield frames


def fill(server: eda.EmbeddedServer, filling: Filling) -> None:
    """Make a marked stream and store the events in it, without expectations and without ids for deduplication."""
    with bare.connect(server) as link:
        bare_store.make_stream(link, filling.stream)
        link.sendall(b"SUB %b 1\r\n" % INBOX)
        acks = bare_store.Acks(link)
        n_sent = 0
        for frames in chunks(filling):
            link.sendall(b"".join(frames))
            n_sent += len(frames)
            acks.read_until(n_sent - N_UNDER_WAY)
        acks.read_until(n_sent)
