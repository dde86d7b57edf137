"""No pack leaks memory or references: 100,000 events for each way in which the events of a pack can end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from eda._data import JSON, Bytes
from eda._event import Event
from eda.errors import ConfigError, EncodeError
from leaks import MAX_BLOCKS, MAX_RSS, growth, resident
from support.publishing.publisher_core import Host, Rig

N = 100_000
AT_ONCE = 100  # events of one round
PACK = 8  # events of a pack, so that the last one of a round is not full
EVENTS = [Event(type="t" * 100, aggregate="é", data=Bytes(bytes(100)), meta={"k": "v"}), Event(type="u")]
REFUSED = [Event(id="a b"), Event(type="t" * 5000), Event(data=Bytes(bytes(5000))), Event(data=JSON(object()))]
COMPRESSOR = zstandard.ZstdCompressor()


class Forgetful(Host):
    """A host that does not record its calls."""

    def on_receipt(self, receipt: Any, sequence: int) -> None: ...

    def on_flow(self, n_messages: int) -> None: ...

    def on_acknowledged(self, event_id: str, sequence: int) -> None: ...


class Packs:
    """Runs rounds of events through a publisher's core with packs."""

    def __init__(self, compress: Callable[[Any], bytes] | None = None, **options: Any) -> None:
        packs = {"max_events": PACK, "max_pack_bytes": 4096, "compress": compress}
        self.rig = Rig(host=Forgetful(), max_payload=4096, packs=packs, **options)

    def accept(self) -> None:
        ids: list[str] = []
        assert self.rig.core.accept_many(EVENTS * (AT_ONCE // 2), 0, ids) == len(ids) == AT_ONCE
        self.rig.core.close_pack()

    def end(self) -> None:
        self.rig.out.flush()
        self.rig._data.clear()
        assert (self.rig.core.n_pending, self.rig.core.n_open, self.rig.core.receipts) == (0, 0, {})

    def acknowledge(self) -> None:
        for seq in self.rig.core.window.pending():
            self.rig.acknowledge(seq)
        self.end()

    def window(self) -> None:
        self.rig.window()
        self.accept()
        self.acknowledge()

    def fast(self) -> None:
        self.rig.core.rewind()
        self.accept()
        self.rig.batch_open()
        self.accept()
        self.rig.flow(5)
        assert self.rig.core.settle_batch_to(self.rig.core.n_in_batch)
        self.end()

    def flowing(self) -> None:
        self.rig.window()
        for _ in range(AT_ONCE):
            assert self.rig.core.accept_if_flowing(EVENTS[0]) is not None
        self.rig.core.close_pack()
        self.acknowledge()

    def written_again(self) -> None:
        self.accept()
        self.rig.batch_open()
        self.rig.window()
        self.acknowledge()

    def with_receipts(self) -> None:
        self.rig.window()
        for _ in range(AT_ONCE):
            seq, index, _ = self.rig.core.accept_with_receipt(EVENTS[0], COMPRESSOR)
            if index == 3:
                self.rig.core.drop_receipt(seq, index)
        self.rig.core.close_pack()
        self.acknowledge()

    def failed(self) -> None:
        self.rig.window()
        self.rig.core.accept_with_receipt(EVENTS[0], COMPRESSOR)
        self.accept()
        for seq in self.rig.core.window.pending():
            assert 1 <= len(self.rig.core.fail(seq)) <= PACK
        self.end()

    def refused(self) -> None:
        self.rig.window()
        for event in REFUSED:
            with pytest.raises((ConfigError, EncodeError)):
                self.rig.core.accept(event)
        self.end()


# Path > (what it takes, events of a round)
PATHS: dict[str, tuple[Callable[[], Callable[[], Any]], int]] = {
    "window": (lambda: Packs().window, AT_ONCE),
    "window-untold": (lambda: Packs(wants_acks=False).window, AT_ONCE),
    "window-without-ids": (lambda: Packs(dedup=False).window, AT_ONCE),
    "window-flowing": (lambda: Packs().flowing, AT_ONCE),
    "window-compressed": (lambda: Packs(compress=COMPRESSOR.compress).window, AT_ONCE),
    "fast": (lambda: Packs().fast, 2 * AT_ONCE),
    "fast-then-window": (lambda: Packs().written_again, AT_ONCE),
    "receipts": (lambda: Packs().with_receipts, AT_ONCE),
    "failed": (lambda: Packs().failed, AT_ONCE),
    "refused": (lambda: Packs().refused, len(REFUSED)),
}


@pytest.mark.parametrize(("make", "n_events"), PATHS.values(), ids=PATHS)
def test_memory_when_100000_events_are_put_into_packs_does_not_grow(
    make: Callable[[], Callable[[], Any]], n_events: int
) -> None:
    blocks, tracked, size = growth(make(), N // n_events, n_before=50, shared=(*EVENTS, *REFUSED, COMPRESSOR))
    assert (blocks < MAX_BLOCKS, tracked < MAX_BLOCKS, size < MAX_RSS) == (True, True, True)


def test_memory_when_publishers_end_with_an_open_pack_and_others_does_not_grow() -> None:
    def path() -> None:
        packs = Packs()
        packs.accept()
        packs.rig.core.accept(EVENTS[0])
        packs.rig.parser.register(1, None)

    blocks, tracked, size = growth(path, 300, n_before=50, shared=EVENTS)
    assert (blocks < MAX_BLOCKS, tracked < MAX_BLOCKS, size < MAX_RSS) == (True, True, True)


def test_memory_of_a_large_event_is_given_back() -> None:
    rig = Rig(host=Forgetful(), max_payload=64 * 2**20, packs={"max_events": 8, "max_pack_bytes": 4096})
    large = Event(data=Bytes(bytes(30 * 2**20)))

    def path() -> None:
        rig.core.accept(large)
        rig.core.close_pack()
        rig.core.fail(rig.core.oldest)

    _, _, size = growth(path, 3, n_before=2)
    assert size < MAX_RSS


def test_packs_that_wait_take_little_more_memory_than_is_counted() -> None:
    rig = Rig(packs={"max_events": 2, "max_pack_bytes": 65_536}, max_pending=50_000, max_bytes=100 * 2**20)
    rig.window()
    rig.core.stop_writing()
    many = [Event(data=Bytes(bytes(100))) for _ in range(4096)]
    rig.core.accept_many(many, 0, [])
    before = resident()
    for _ in range(10):
        rig.core.accept_many(many, 0, [])
    assert rig.core.n_waiting == 11 * 2048
    assert resident() - before < 4 * rig.core.n_bytes
