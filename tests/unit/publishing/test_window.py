"""eda.publishing._window, driven by a StreamSender and compared with a dictionary over random histories."""

from __future__ import annotations

import random
from concurrent.futures import Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eda
from eda.publishing._stream_sender import Destination, StreamSender
from eda.publishing._window import PublishWindow
from eda.transport._frame import Parser
from eda.transport._outbound import Outbound


def test_window_when_made_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="limit"):
        PublishWindow(0)


class Window:
    """A publish window with its sender, and the dictionary to which it must be equal."""

    def __init__(self, limit: int) -> None:
        self.out = Outbound(lambda: None)
        self.out.set_write(lambda data: None)
        self.window = PublishWindow(limit)
        self.sender = StreamSender(self.window, self.out, b"in.", "me", lambda *answer: None)
        self.parser = Parser()
        self.parser.register(1, self.sender)
        self.target = Destination("orders", 10**6)
        self.limit = limit
        self.next_seq = 1
        self.pending: dict[int, Future[int]] = {}
        self.sizes: dict[int, int] = {}

    def publish(self, size: int) -> None:
        assert self.sender.has_room == (self.next_seq - min(self.pending, default=self.next_seq) < self.limit)
        if self.sender.has_room:
            before = self.window.n_bytes
            waiter: Future[int] = Future()
            self.sender.publish(self.target, eda.Event(data=eda.Bytes(bytes(size))), waiter, 5.0, 30.0)
            self.pending[self.next_seq] = waiter
            self.sizes[self.next_seq] = self.window.n_bytes - before
            self.next_seq += 1

    def settle(self, seq: int, how: str) -> None:
        self.out.flush()
        waiter = self.pending.pop(seq, None)
        if how == "acknowledge":
            payload = b'{"stream":"orders","seq":%d}' % (seq + 1000)
            self.parser.feed(b"MSG in.%d 1 %d\r\n%s\r\n" % (seq, len(payload), payload))
            assert waiter is None or waiter.result(0) == seq + 1000
        else:
            self.sender.fail(seq, eda.Closed("it"))
            assert waiter is None or isinstance(waiter.exception(0), eda.Closed)

    def check(self) -> None:
        assert self.window.pending() == sorted(self.pending)
        assert self.window.n_pending == self.sender.n_pending == len(self.pending)
        assert self.window.n_bytes == sum(self.sizes[seq] for seq in self.pending)
        assert not any(waiter.done() for waiter in self.pending.values())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 2000), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 700), st.integers(0, 300)), max_size=60)
)
def test_window_when_driven_at_random_is_like_a_dictionary(limit: int, steps: list[tuple[int, int, int]]) -> None:
    window = Window(limit)
    for kind, number, size in steps:
        if kind <= 1:
            for _ in range(number if kind else 1):
                window.publish(size)
        else:
            window.settle(number, "acknowledge" if kind == 2 else "fail")
            for seq in list(window.pending)[: size // 4]:
                window.settle(seq, "acknowledge")
        window.check()
    for seq in random.sample(list(window.pending), len(window.pending)):
        window.settle(seq, "acknowledge")
    window.check()
    assert window.sender.has_room
