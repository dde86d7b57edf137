"""A server that loses power, and what it had not yet written to disk: the stream gives those sequences away again."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import nats

import eda
from helpers import Admin
from support.packs import publish_pack

__all__ = ["Machine"]


class Machine:
    """A server whose disk can be put back to what it was: all that came after is lost, as with the power."""

    def __init__(self, path: Path, executable: Path | None, config: dict[str, Any] | None = None) -> None:
        self.server = eda.EmbeddedServer(path / "data", executable=executable, config=config)
        self.login = {"user": "u", "password": "p"} if config else {}
        self._data = path / "data"
        self._saved = path / "saved"
        self._ids = itertools.count(1)

    async def publish(self, n: int) -> list[str]:
        """Publish events by a connection of their own; returns their ids."""
        ids = [f"e{next(self._ids)}" for _ in range(n)]
        async with eda.connect(self.server.url, client="publisher", **self.login) as conn:
            for each in ids:
                await conn.publish("s", eda.Event(id=each, type="t"))
        return ids

    async def publish_pack(self, n: int) -> list[str]:
        """Publish a pack of events; returns their ids."""
        ids = [f"e{next(self._ids)}" for _ in range(n)]
        admin = await self.admin()
        await publish_pack(admin.js, "s", [eda.Event(id=each, type="t") for each in ids])
        await admin.client.close()
        return ids

    async def save(self) -> None:
        """Have what is stored now on the disk."""
        await self.server.stop()
        (store,) = self._data.rglob("streams/s")
        shutil.copytree(store, self._saved)
        await self.server.start()

    async def lose(self) -> None:
        """Lose what came after that, and stay off."""
        await self.server.kill()
        (store,) = self._data.rglob("streams/s")
        shutil.rmtree(store)
        shutil.copytree(self._saved, store)

    async def admin(self) -> Admin:
        return Admin(await nats.connect(self.server.url, allow_reconnect=False))
