"""Three nats-servers in a cluster, each with a store of its own, that a test may kill one by one.

async with Cluster(tmp_path) as cluster, eda.connect(cluster.urls) as conn:
    await cluster.kill(await cluster.leader("orders"))
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import nats
from nats.errors import Error as NatsError

import eda
from helpers import free_port, until

__all__ = ["Cluster"]

READY_S = 30.0
ANSWER_S = 0.5  # for an answer that will not come while there is no leader; then the cluster is asked again


class Cluster:
    """Nodes by name: n1, n2, n3. All listen on loopback, without authorization.

    `executable`: the nats-server to run; None: the current one.
    """

    def __init__(self, folder: Path, n_nodes: int = 3, executable: Path | None = None) -> None:
        ports = [free_port() for _ in range(n_nodes)]
        routes = [f"nats://127.0.0.1:{port}" for port in ports]
        self.nodes: dict[str, eda.EmbeddedServer] = {}
        for number, port in enumerate(ports, 1):
            config = {
                "authorization": None,
                "server_name": f"n{number}",
                "cluster": {"name": "c", "listen": f"127.0.0.1:{port}", "routes": routes},
            }
            self.nodes[f"n{number}"] = eda.EmbeddedServer(folder / f"n{number}", config=config, executable=executable)

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.nodes.values()]

    async def __aenter__(self) -> Cluster:
        try:
            await asyncio.gather(*(server.start() for server in self.nodes.values()))
            await self.until_led()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(server.stop() for server in self.nodes.values()))

    async def kill(self, name: str) -> None:
        """End a node as a crash would."""
        await self.nodes[name].kill()

    async def start(self, name: str) -> None:
        """Bring a node back, with what it had stored."""
        await self.nodes[name].start()

    async def api(self, verb: str, frozen: str = "") -> dict[str, Any] | None:
        """Ask JetStream by way of any node that lives and is not `frozen`; None: it has no answer now."""
        url = next(server.url for name, server in self.nodes.items() if server.running and name != frozen)
        with contextlib.suppress(NatsError, OSError, asyncio.TimeoutError):
            client = await nats.connect(url, allow_reconnect=False, connect_timeout=2)
            try:
                answer: dict[str, Any] = json.loads(
                    (await client.request(f"$JS.API.{verb}", b"", timeout=ANSWER_S)).data
                )
                return None if "error" in answer else answer
            finally:
                await client.close()
        return None

    async def until_led(self) -> None:
        """Wait until the cluster has a leader for streams and consumers."""
        await until(lambda: self.api("INFO"), READY_S)

    async def leader(self, stream: str, consumer: str = "") -> str:
        """Return the node that leads the stream, or the consumer."""
        verb = f"CONSUMER.INFO.{stream}.{consumer}" if consumer else f"STREAM.INFO.{stream}"

        async def ask() -> str | None:
            info = await self.api(verb)
            return (info or {}).get("cluster", {}).get("leader")

        return str(await until(ask, READY_S))

    async def until_deposed(self, frozen: str, stream: str) -> None:
        """Wait until the other nodes have elected another leader of the stream than the node that is frozen."""

        async def ask() -> bool:
            info = await self.api(f"STREAM.INFO.{stream}", frozen)
            return (info or {}).get("cluster", {}).get("leader") not in (None, frozen)

        await until(ask, READY_S)

    async def until_current(self, stream: str) -> None:
        """Wait until each replica of the stream has all of it."""

        async def ask() -> bool:
            info = await self.api(f"STREAM.INFO.{stream}")
            replicas = (info or {}).get("cluster", {}).get("replicas") or []
            return len(replicas) == len(self.nodes) - 1 and all(
                each.get("current") and not each.get("offline") for each in replicas
            )

        await until(ask, READY_S)
