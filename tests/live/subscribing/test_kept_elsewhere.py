"""Positions moved and forgotten from another domain."""

from __future__ import annotations

from typing import Any

import pytest

import eda
from helpers import until
from support.embedded.domains import Domains
from support.subscribing.kept import BOTH, N, fill, handle_all, member, places


@pytest.mark.parametrize("forced", [False, True], ids=["closed", "forced"])
@BOTH
async def test_move_when_the_stream_is_in_another_domain_moves_it_there(
    domains: Domains, gateway: eda.Conn, options: dict[str, Any], forced: bool
) -> None:
    async def is_left() -> bool:
        # A server with leaf nodes counts the pulls of a member that has closed for 2 s more.
        return not any(each.is_active for each in await gateway.subscriptions())

    async with eda.connect(domains.hub.url, client="hub") as hub:
        await fill(hub, "orders")
        await handle_all(hub, "orders", **options)
        await until(is_left)
        if forced and options:
            async with member(hub, "orders", **options) as (sub, got):
                await until(lambda: sub.is_active)
                await gateway.move_subscription("orders", "n", to=4, force=True)
                await until(lambda: len(got) == N - 3)
                assert got == places(4)
        else:
            moved = await gateway.move_subscription("orders", "n", to=4, force=forced)
            assert (moved.before, moved.after) == ("10", "3")
            assert await handle_all(hub, "orders", N - 3, **options) == places(4)
        await until(is_left)
        (info,) = await gateway.subscriptions()
        assert (info.stream, info.name, info.position, info.lag) == ("orders", "n", N, 0)
        assert await gateway.delete_subscription("orders", "n")
        assert await hub.subscriptions() == []
