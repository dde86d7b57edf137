"""A TCP proxy on loopback, between a client and its server (NATS, or another one), that misbehaves on demand.

    async with FaultyProxy(server.port) as proxy, eda.connect(proxy.url(server.url)) as conn:
        proxy.cut_after(1000, DOWN)

`UP` is the way from the client to the server, `DOWN` the way back. Faults hold for all connections, those that are open
and those to come, until they are taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Literal

from helpers import listening

__all__ = ["DOWN", "UP", "FaultyProxy", "Way", "split_messages"]

Way = Literal["up", "down"]
UP: Way = "up"
DOWN: Way = "down"

READ_SIZE = 65536


class FaultyProxy:
    """Passes bytes on until told otherwise.

    `target`: the server's port, which may change between connections. `refusing`: new connections are closed at once.
    `delay_s`: wait so long before each write. `rate`: pass at most so many bytes per second and way. `one_byte`: write
    every byte on its own. `lost`: ways whose bytes are read and thrown away. `drop_if(message)`: whether a whole
    message from the server (its line and all that follows) is taken out of the stream. `change(message)`: what is
    passed on in its place. `watch(way, data)` sees all bytes before they are passed on, and may call for a fault.

    `speaks_nats`: otherwise the bytes are not cut into messages, so `drop_if` and `change` are not called.
    """

    def __init__(self, port: int, *, speaks_nats: bool = True) -> None:
        self.target = port
        self.port = 0
        self.refusing = False
        self.delay_s = 0.0
        self.rate: float | None = None
        self.one_byte = False
        self.lost: set[Way] = set()
        self.drop_if: Callable[[bytes], bool] | None = None
        self.change: Callable[[bytes], bytes] = _same
        self.watch: Callable[[Way, bytes], object] = _ignore
        self._speaks_nats = speaks_nats
        self.n_accepted = 0
        self.n_cut = 0
        self.n_dropped = 0
        self.n_bytes: dict[Way, int] = {UP: 0, DOWN: 0}
        self._cut_at: dict[Way, int | None] = {UP: None, DOWN: None}
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> FaultyProxy:
        self.port = await self._stack.enter_async_context(listening(self._serve))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()
        await self._stack.aclose()

    def url(self, server_url: str) -> str:
        """Give the server's URL with the proxy's port."""
        return re.sub(r":\d+$", f":{self.port}", server_url)

    @property
    def n_open(self) -> int:
        """The connections that stand."""
        return len(self._writers) // 2

    # --- faults ------------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """End all connections at once; what was passed on before may still arrive."""
        self.n_cut += bool(self._writers)
        self._cut_at = {UP: None, DOWN: None}
        for writer in list(self._writers):
            writer.transport.abort()

    def cut_after(self, n: int, way: Way) -> None:
        """End all connections when `n` more bytes have gone that way, in the middle of a frame if it comes so."""
        self._cut_at[way] = self.n_bytes[way] + n

    def hold(self) -> None:
        """Pass nothing on, and read no more than one read, until `release`; connections stand."""
        self._flowing.clear()

    def release(self) -> None:
        """End a `hold`."""
        self._flowing.set()

    # --- passing bytes -----------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_accepted += 1
        if self.refusing:
            return
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            return
        self._writers |= {writer, up_writer}
        ways = {
            asyncio.ensure_future(self._pass(UP, reader, up_writer)),
            asyncio.ensure_future(self._pass(DOWN, up_reader, writer)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._writers -= {writer, up_writer}
            up_writer.transport.abort()
            for each in ways:
                each.cancel()
            await asyncio.wait(ways)

    async def _pass(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_SIZE):
                self.watch(way, data)
                if way == DOWN and self._speaks_nats:
                    messages, rest = split_messages(rest + data)
                    data = b"".join(self.change(each) for each in messages if not self._drops(each))
                await self._flowing.wait()
                if way in self.lost:
                    continue
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                size = 1 if self.one_byte else max(1, int(self.rate / 50)) if self.rate else READ_SIZE
                for start in range(0, len(data), size):
                    await self._write(way, data[start : start + size], writer)

    def _drops(self, message: bytes) -> bool:
        if self.drop_if is None or not self.drop_if(message):
            return False
        self.n_dropped += 1
        return True

    async def _write(self, way: Way, data: bytes, writer: asyncio.StreamWriter) -> None:
        cut_at = self._cut_at[way]
        if cut_at is not None:
            data = data[: max(cut_at - self.n_bytes[way], 0)]
        self.n_bytes[way] += len(data)
        writer.write(data)
        await writer.drain()
        if cut_at is not None and self.n_bytes[way] >= cut_at:
            self.cut()
        if self.one_byte:
            await asyncio.sleep(0)  # so that it is read before the next one comes
        elif self.rate:
            await asyncio.sleep(len(data) / self.rate)


def _ignore(way: Way, data: bytes) -> None:
    pass


def _same(message: bytes) -> bytes:
    return message


def split_messages(data: bytes) -> tuple[list[bytes], bytes]:
    """Cut what a server sends into lines and whole messages; returns them and the incomplete rest."""
    found = []
    at = 0
    while (line_end := data.find(b"\r\n", at)) >= 0:
        end = line_end + 2
        if data.startswith((b"MSG ", b"HMSG "), at):
            end += int(data[data.rfind(b" ", at, line_end) + 1 : line_end]) + 2
            if end > len(data):
                break
        found.append(data[at:end])
        at = end
    return found, data[at:]
