"""Publishing without a server, beside a window of plain Python, and beside protobuf making the envelopes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from micro.publishing.window import CONTENDERS, N_EVENTS


def test_contenders_agree() -> None:
    ours, plain = CONTENDERS["eda_window"](), CONTENDERS["dict_window"]()
    for _ in range(2):
        acknowledged, pending, n_written = ours.run()
        assert (acknowledged, pending) == (N_EVENTS, 0)
        assert plain.run() == (acknowledged, pending, n_written)


@pytest.mark.parametrize(
    "name",
    [
        *("eda_send_many", "eda_build_and_send", "eda_send_many_packed", "eda_build_and_send_packed"),
        *("eda_send_columns", "eda_send_rows", "eda_send_columns_packed", "eda_send_rows_packed"),
    ],
)
def test_all_is_acknowledged(name: str) -> None:
    contender = CONTENDERS[name]()
    assert contender.run() == contender.run() == 0


@pytest.mark.parametrize(
    "names",
    [
        ("eda_window", "dict_window"),
        ("eda_send_many", "protobuf_serialise", "protobuf_build"),
        ("eda_build_and_send", "protobuf_build"),
        ("eda_send_many_packed", "eda_send_many"),
        ("eda_build_and_send_packed", "eda_build_and_encode"),
        ("eda_send_columns", "eda_send_rows"),
        ("eda_send_columns_packed", "eda_send_rows_packed"),
    ],
    ids=[
        *("window", "send_many", "build_and_send", "packed_send_many", "packed_build_and_send"),
        *("send_columns", "packed_send_columns"),
    ],
)
def test_window(names: tuple[str, ...], contest: Callable[..., None]) -> None:
    contest("publishing.window", *names)
