"""eda.cursors.standby on a connection that fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from eda.cursors.standby import Standby


class Wire:
    """A connection that notes its subscriptions. `fails` is raised by the next `detach`."""

    def __init__(self) -> None:
        self.attached: list[str] = []
        self.released: list[str] = []
        self.fails: BaseException | None = None

    async def attach(self, subject: str, sink: object) -> str:
        self.attached.append(subject)
        return subject

    async def detach(self, subscription: str) -> None:
        fails, self.fails = self.fails, None
        if fails is not None:
            raise fails
        self.attached.remove(subscription)

    def release(self, subscription: str) -> None:
        self.released.append(subscription)


async def test_stop_when_a_subscription_could_not_be_ended_ends_the_others_when_called_again() -> None:
    wire: Any = Wire()
    api: Any = SimpleNamespace(domain="", is_foreign=False)
    standby = Standby(wire, api, "orders", "me", lambda payload, may_be_free: None)
    await standby.start()
    assert len(wire.attached) == 2
    wire.fails = OSError("the connection is lost")
    with pytest.raises(OSError, match="lost"):
        await standby.stop()
    await standby.stop()
    assert len(wire.attached) == 1
    assert len(wire.released) == 2
