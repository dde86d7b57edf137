"""The servers that are measured on: one of our own, three that are a cluster, or the user's."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import eda

__all__ = ["Servers", "options_of"]

CLUSTER_READY_S = 30.0
NODES = 3


def options_of(storage: str) -> eda.StreamOptions:
    """Return the options of a stream for "R1 file", "R1 memory" or "R3 file"."""
    replicas, kind = storage.split()
    return eda.StreamOptions(replicas=int(replicas[1:]), storage=kind)


@dataclass
class Servers:
    """Starts what is asked for when it is first asked for. `addr`: the user's server, None: our own."""

    addr: str | None
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    urls: dict[str, str] = field(default_factory=dict)

    @classmethod
    @asynccontextmanager
    async def open(cls, addr: str | None) -> AsyncIterator[Servers]:
        """Give the servers, and stop them afterwards."""
        servers = cls(addr)
        async with servers.stack:
            yield servers

    def lacks(self, storage: str) -> bool:
        """Whether that kind of stream needs a server of our own, and there is only the user's."""
        return self.addr is not None and storage != "R1 file"

    async def url(self, storage: str) -> str:
        """Return the URL of a server for such streams."""
        if self.addr is not None:
            return self.addr
        kind = "cluster" if storage.startswith("R3") else "single"
        if kind not in self.urls:
            if kind == "single":
                self.urls[kind] = (await self.stack.enter_async_context(eda.EmbeddedServer())).url
            else:
                self.urls[kind] = await self._start_cluster()
        return self.urls[kind]

    async def _start_cluster(self) -> str:
        ports = free_ports(NODES)
        routes = [f"nats-route://127.0.0.1:{port}" for port in ports]
        nodes = [
            eda.EmbeddedServer(
                config={
                    "server_name": f"node-{n}",
                    "cluster": {"name": "bench", "listen": f"127.0.0.1:{port}", "routes": routes},
                    "authorization": None,
                }
            )
            for n, port in enumerate(ports)
        ]
        await asyncio.gather(*[self.stack.enter_async_context(node) for node in nodes])
        async with asyncio.timeout(CLUSTER_READY_S), eda.connect(nodes[0].url, client="bench-admin") as conn:
            while True:
                try:
                    await conn.streams.create("ready", options_of("R3 file"))
                    await conn.publish("ready", eda.Event(type="ready"))
                    await conn.streams.delete("ready")
                    break
                except eda.EdaError:  # there is no leader yet
                    await asyncio.sleep(0.25)
        return nodes[0].url


def free_ports(n: int) -> list[int]:
    """Return ports that nobody has now."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [each.getsockname()[1] for each in taken]
    for each in taken:
        each.close()
    return ports
