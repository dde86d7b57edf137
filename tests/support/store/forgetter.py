"""A process that forgets aggregate 4711, and kills itself at a step: python forgetter.py URL STREAM STEP."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any, NoReturn

import eda
from eda.jetstream.direct_get import DirectGet
from eda.store.forgetting import Forgetting
from eda.store.history import History
from eda.store.snapshot_stream import SnapshotStream

__all__: list[str] = []


async def die(*_: Any, **__: Any) -> NoReturn:
    os._exit(9)


async def main(url: str, stream: str, step: str) -> None:
    async with eda.connect(url) as conn:
        assert conn._lifetime._services is not None
        api = conn._lifetime._services.api
        direct = DirectGet(api, stream)
        await direct.open()
        snapshot_stream: Any = SnapshotStream(api, stream, eda.StreamOptions())
        forgetting: Any = Forgetting(api, stream, History(api, stream, direct), snapshot_stream)
        put = snapshot_stream.put

        async def put_and_die(*arguments: Any) -> NoReturn:
            await put(*arguments)
            os._exit(9)

        if step.startswith("_"):
            setattr(forgetting, step, die)
        elif step.startswith("put"):
            snapshot_stream.put = put_and_die if step == "put+" else die
        await forgetting.forget("4711")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
