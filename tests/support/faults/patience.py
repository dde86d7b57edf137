"""How long eda waits for an answer before it asks again. Tests in which answers are lost shorten it."""

from __future__ import annotations

from typing import Any

import pytest

import eda.jetstream.api
import eda.jetstream.direct_get
import eda.jetstream.streams
import eda.publishing.atomic_batch
import eda.publishing.stream_publisher

__all__ = ["ask_again_after"]

PLACES: list[tuple[Any, str]] = [
    (eda.jetstream.api, "ATTEMPT_TIMEOUT_S"),
    (eda.jetstream.direct_get, "FIRST_ATTEMPT_S"),
    (eda.jetstream.direct_get, "MAX_ATTEMPT_S"),
    (eda.jetstream.streams, "ATTEMPT_TIMEOUT_S"),
    (eda.publishing.atomic_batch, "ACK_TIMEOUT_S"),
    (eda.publishing.stream_publisher, "RESEND_S"),
]


def ask_again_after(patience_s: float, patch: pytest.MonkeyPatch) -> None:
    """Let eda ask again after at most this time in this process, until `patch` is undone."""
    for module, name in PLACES:
        patch.setattr(module, name, min(patience_s, getattr(module, name)))
    patch.setitem(eda.jetstream.api.Api.request.__kwdefaults__, "attempt_timeout_s", patience_s)
