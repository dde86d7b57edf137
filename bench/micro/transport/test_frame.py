"""Taking inbound bytes apart, in reads of several sizes, beside nats-py's parser."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from micro.transport.frame import CONTENDERS, N_FRAMES, READ_SIZES


@pytest.mark.parametrize("size", READ_SIZES)
def test_contenders_agree(size: int) -> None:
    ours, theirs = CONTENDERS[f"eda_parse_{size}"](), CONTENDERS[f"nats_parse_{size}"]()
    for _ in range(2):  # nothing is left over from a round
        frames = ours.run()
        assert len(frames) == N_FRAMES
        assert frames == theirs.run()


@pytest.mark.parametrize("size", READ_SIZES)
def test_frame(size: int, contest: Callable[..., None]) -> None:
    contest("transport.frame", f"eda_parse_{size}", f"nats_parse_{size}")
