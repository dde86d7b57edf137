"""Encoding and decoding, beside the official protobuf package and msgpack."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from micro.codec import (
    DATA,
    ENVELOPE,
    eda_decode,
    eda_decode_full,
    eda_decode_lazy,
    eda_encode,
    msgpack_decode,
    msgpack_decode_full,
    protobuf_decode,
    protobuf_decode_full,
    protobuf_encode,
)  # fmt: skip
from support.reference import Envelope


def test_contenders_agree() -> None:
    assert ENVELOPE in eda_encode()
    assert Envelope.FromString(ENVELOPE) == Envelope.FromString(protobuf_encode())
    assert eda_decode()[:2] == protobuf_decode()[:2] == msgpack_decode()[:2]
    assert eda_decode()[2].encode() == protobuf_decode()[2] == msgpack_decode()[2] == DATA
    assert eda_decode_full() == protobuf_decode_full() == msgpack_decode_full()
    assert eda_decode_lazy().data.encode() == DATA


@pytest.mark.parametrize(
    "names",
    [
        ("eda_encode", "protobuf_encode"),
        ("eda_decode_lazy", "protobuf_decode_lazy"),
        ("eda_decode", "protobuf_decode", "msgpack_decode"),
        ("eda_decode_full", "protobuf_decode_full", "msgpack_decode_full"),
    ],
    ids=["encode", "decode_lazy", "decode", "decode_full"],
)
def test_codec(names: tuple[str, ...], contest: Callable[..., None]) -> None:
    contest("codec", *names)
