"""Two nats-servers with a JetStream domain each: a hub, and a leaf that is connected to it.

async with Domains(tmp_path) as domains, eda.connect(domains.leaf.url, cluster="hub") as conn:
    await domains.hub.kill()
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nats
from nats.errors import Error as NatsError

import eda
from helpers import free_port, until

__all__ = ["Domains"]

READY_S = 30.0


class Domains:
    """`hub` has the domain "hub", `leaf` the domain "edge". Both listen on loopback, without authorization."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.hub = self._server(folder, "hub", "hub", {"listen": f"127.0.0.1:{port}"})
        remote = {"remotes": [{"url": f"nats://127.0.0.1:{port}"}], "reconnect": 1}
        self.leaf = self._server(folder, "leaf", "edge", remote)

    def _server(self, folder: Path, name: str, domain: str, leafnodes: dict[str, Any]) -> eda.EmbeddedServer:
        config = {
            "authorization": None,
            "server_name": name,
            "jetstream": {"domain": domain},
            "leafnodes": leafnodes,
        }
        return eda.EmbeddedServer(folder / name, config=config)

    async def __aenter__(self) -> Domains:
        try:
            await self.hub.start()
            await self.leaf.start()
            await self.until_linked()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leaf.stop()
        await self.hub.stop()

    async def until_linked(self) -> None:
        """Wait until the leaf reaches the hub's JetStream."""
        client = await nats.connect(self.leaf.url, allow_reconnect=False)

        async def ask() -> bool:
            try:
                answer = await client.request("$JS.hub.API.INFO", b"", timeout=1)
            except (NatsError, TimeoutError):
                return False
            return "error" not in json.loads(answer.data)

        try:
            await until(ask, READY_S)
        finally:
            await client.close()

    async def change(self, domain: str, **settings: Any) -> None:
        """Change the settings of the stream `orders` of one domain."""
        client = await nats.connect(self.leaf.url, allow_reconnect=False)
        try:
            prefix = f"$JS.{domain}.API"
            info = json.loads((await client.request(f"{prefix}.STREAM.INFO.orders", b"", timeout=5)).data)
            config = json.dumps(info["config"] | settings).encode()
            answer = json.loads((await client.request(f"{prefix}.STREAM.UPDATE.orders", config, timeout=5)).data)
            assert "error" not in answer, answer
        finally:
            await client.close()
