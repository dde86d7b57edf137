"""eda.Receipt: a value that stands for its event, as the cause of others too."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import eda

RECEIPT = eda.Receipt("one", "orders", 7, 0, False)


def test_receipt_when_made_into_text_is_the_id() -> None:
    assert (str(RECEIPT), f"{RECEIPT}", RECEIPT.id) == ("one", "one", "one")
    assert not isinstance(RECEIPT, str)
    assert RECEIPT.position == ("orders", 7, 0)
    assert eda.Receipt("one", "orders", 7) == eda.Receipt(
        id="one", stream="orders", sequence=7, index=0, duplicate=None
    )


def test_receipt_when_changed_refuses() -> None:
    with pytest.raises(AttributeError):
        RECEIPT.id = "two"  # type: ignore[misc]


def test_receipt_when_copied_pickled_or_hashed_is_a_value() -> None:
    assert pickle.loads(pickle.dumps(RECEIPT)) == RECEIPT == copy.copy(RECEIPT)
    assert {RECEIPT, eda.Receipt("one", "orders", 7, 0, False)} == {RECEIPT}
    assert eda.Receipt("one", "orders", 7, 0, True) != RECEIPT
    assert repr(RECEIPT) == "Receipt(id='one', stream='orders', sequence=7, index=0, duplicate=False)"


def test_cause_when_it_is_a_receipt_is_the_id() -> None:
    event = eda.Event(type="t", cause=RECEIPT)
    assert event.cause == "one"
    assert type(event.cause) is str
    assert event.replace(cause=eda.Receipt("two", "orders", 8)).cause == "two"
    assert event == eda.Event(type="t", cause="one")


@pytest.mark.parametrize("field", ["id", "type", "schema", "client", "aggregate", "stream"])
def test_field_when_it_is_a_receipt_refuses(field: str) -> None:
    fields: Any = {field: RECEIPT}
    with pytest.raises(eda.ConfigError, match=field):
        eda.Event(**fields)


def test_cause_when_it_is_a_receipt_without_a_text_refuses() -> None:
    with pytest.raises(eda.ConfigError, match="cause"):
        eda.Event(cause=eda.Receipt(5, "orders", 7))  # type: ignore[arg-type]
