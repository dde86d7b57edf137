"""Tests of the orders: of the decider without a server, and of the whole program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import eda
from eda.testing import given
from orders import (
    DECIDER,
    AddItem,
    Cancel,
    ItemAdded,
    OrderCancelled,
    OrderPaid,
    OrderPlaced,
    OrderShipped,
    Pay,
    Place,
    Refused,
    Ship,
)

STORY = """\
refused: the order costs 3000 cents, not 2999
4711 is paid at version 3
4711 is shipped at version 4 because it was paid: True
conflict: expected 1 but it is 2 because of ['item-added']
4712 is paid at version 4
req-81 was applied once: True
a command without an event leaves version 2 and 0 receipts
4714 costs 9000 cents
4715 has 41 events; the load read a snapshot: True
aggregate '4711' of stream 'orders' was forgotten
left: ['4712', '4713', '4714', '4715']
"""

OPEN = [OrderPlaced("ada"), ItemAdded("book", 3000)]


def test_order_when_placed_twice_is_refused() -> None:
    given(DECIDER, []).when(Place("ada")).then([OrderPlaced("ada")])
    given(DECIDER, OPEN).when(Place("ada")).then_raises(Refused)


def test_order_when_paid_with_the_wrong_sum_is_refused() -> None:
    given(DECIDER, OPEN).when(Pay(3000)).then([OrderPaid(3000)])
    given(DECIDER, OPEN).when(Pay(1)).then_raises(Refused)


def test_order_when_not_paid_is_not_shipped() -> None:
    given(DECIDER, OPEN).when(Ship("P-1")).then_raises(Refused)
    given(DECIDER, [*OPEN, OrderPaid(3000)]).when(Ship("P-1")).then([OrderShipped("P-1")])


def test_order_when_cancelled_twice_has_one_event() -> None:
    given(DECIDER, OPEN).when(Cancel("dear")).then([OrderCancelled("dear")])
    given(DECIDER, [*OPEN, OrderCancelled("dear")]).when(Cancel("dear")).then_nothing()


def test_order_when_an_item_was_stored_by_the_first_release_counts_cents() -> None:
    old = eda.Event(type="item-added", schema="1", data=eda.JSON({"sku": "desk", "euros": 90}))
    given(DECIDER, [OrderPlaced("dan"), old]).when(Pay(9000)).then([OrderPaid(9000)])
    given(DECIDER, OPEN).when(AddItem("pen", 1)).then([ItemAdded("pen", 1)])


def test_program_when_run_tells_its_story() -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(Path(__file__).parent)],
        env={name: value for name, value in os.environ.items() if name != "EDA_URL"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, STORY, "")
