"""Appends whose answers are lost: what was stored is found, and what was not is never claimed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import eda
import eda.publishing.atomic_batch
import eda.publishing.stream_publisher
from eda.store.appending import Refused, Stored
from helpers import Admin, Connect, Logged, until
from support.store.appends import Writer, envelope_of
from support.transport.faulty_proxy import UP, FaultyProxy

SERVERS = ["current", "2.12.8"]
either_server = pytest.mark.parametrize("server_version", SERVERS, indirect=True)
single_or_batch = pytest.mark.parametrize("ids", [["i1"], ["i1", "i2", "i3"]], ids=["single", "batch"])

Then = Callable[[], Awaitable[Any]]


class Scene:
    """A writer whose answers are lost, and a writer without trouble."""

    def __init__(self, faulty: Writer, plain: Writer, admin: Admin, proxy: FaultyProxy) -> None:
        self.faulty, self.plain, self.admin, self.proxy = faulty, plain, admin, proxy

    async def lose(self, ids: list[str], then: Then, *, cut: bool = False, sequence: int = 1, **options: Any) -> Any:
        """Append, lose the answer to the first try, and do something else before the next try."""
        self.proxy.drop_if = lambda message: b'{"stream":' in message or b'{"error":' in message
        storing = asyncio.create_task(self.faulty.store(*ids, sequence=sequence, **options))
        await until(lambda: self.proxy.n_dropped)
        await then()
        if cut:
            self.proxy.cut()
        self.proxy.drop_if = None
        return await asyncio.wait_for(storing, 20)

    async def last_seq(self) -> int:
        return await self.admin.last_seq(self.plain.stream)


@pytest.fixture
async def scene(
    connect: Connect,
    server: eda.EmbeddedServer,
    conn: eda.Conn,
    admin: Admin,
    stream: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Scene]:
    monkeypatch.setattr(eda.publishing.atomic_batch, "ACK_TIMEOUT_S", 0.3)
    monkeypatch.setattr(eda.publishing.stream_publisher, "RESEND_S", 0.3)
    await conn.streams.create(stream, eda.StreamOptions(store=True))
    plain = Writer(conn, stream)
    await plain.store("i0", sequence=0)
    async with FaultyProxy(server.port) as proxy:
        faulty = Writer(await connect(proxy.url(server.url)), stream)
        await faulty.store("b0", aggregate="b", sequence=0)
        yield Scene(faulty, plain, admin, proxy)
        await faulty.conn.close()


async def nothing() -> None:
    pass


@either_server
@single_or_batch
@pytest.mark.parametrize("cut", [False, True])
async def test_append_when_its_answer_is_lost_is_found(scene: Scene, ids: list[str], cut: bool) -> None:
    stored = await scene.lose(ids, nothing, cut=cut)
    assert stored.sequences == list(range(3, 3 + len(ids)))
    assert await scene.last_seq() == 2 + len(ids)


@single_or_batch
async def test_append_when_others_follow_its_lost_answer_is_found(scene: Scene, ids: list[str]) -> None:
    async def follow() -> None:
        seq = 2 + len(ids)
        for n in range(20):
            seq = (await scene.plain.store(f"x{n}", sequence=seq)).sequences[0]

    stored = await scene.lose(ids, follow, cut=True)
    assert stored.sequences == list(range(3, 3 + len(ids)))
    assert await scene.last_seq() == 22 + len(ids)


@single_or_batch
@pytest.mark.parametrize("other", [["x1"], ["x1", "x2"]])
async def test_append_when_its_try_is_lost_and_another_came_first_is_refused(
    scene: Scene, ids: list[str], other: list[str]
) -> None:
    scene.proxy.lost.add(UP)
    storing = asyncio.create_task(scene.faulty.store(*ids, sequence=1))
    await asyncio.sleep(0.1)
    await scene.plain.store(*other, sequence=1)
    scene.proxy.cut()
    scene.proxy.lost.clear()
    with pytest.raises(Refused) as refusal:
        await asyncio.wait_for(storing, 20)
    assert not refusal.value.is_under_way
    assert await scene.last_seq() == 2 + len(other)


@single_or_batch
async def test_append_when_its_try_is_lost_is_sent_again(scene: Scene, ids: list[str]) -> None:
    scene.proxy.lost.add(UP)
    storing = asyncio.create_task(scene.faulty.store(*ids, sequence=1))
    await asyncio.sleep(0.1)
    scene.proxy.cut()
    scene.proxy.lost.clear()
    assert await asyncio.wait_for(storing, 20) == Stored(list(range(3, 3 + len(ids))), False)


REFUSALS = {
    "under way": b'"error":{"code":400,"err_code":10164,"description":"wrong last sequence"}',
    "forbidden": b'"error":{"code":400,"err_code":10109,"description":"invalid operation on sealed stream"}',
    "batch": b'"error":{"code":429,"err_code":10210,"description":"atomic publish too many inflight"}',
}


def answering(refusal: str, times: int, count: list[int]) -> Callable[[bytes], bytes]:
    """Change the server's acknowledgements and refusals into this refusal, so often."""

    def change(message: bytes) -> bytes:
        head, _, body = message.partition(b"\r\n")
        if not head.startswith(b"MSG ") or not body.startswith((b'{"stream":', b'{"error":')) or len(count) == times:
            return message
        verb, subject, sid, *_ = head.split()
        count.append(1)
        body = b'{%b,"stream":"s","seq":0}' % REFUSALS[refusal]
        return b"%b %b %b %d\r\n%b\r\n" % (verb, subject, sid, len(body), body)

    return change


@single_or_batch
async def test_append_when_another_write_is_under_way_is_refused_at_once(scene: Scene, ids: list[str]) -> None:
    count: list[int] = []
    scene.proxy.change = answering("under way", 1, count)
    with pytest.raises(Refused, match="under way") as refusal:
        await scene.faulty.store(*ids, sequence=1)
    assert refusal.value.is_under_way
    assert len(count) == 1


@single_or_batch
@pytest.mark.parametrize("refusal", ["under way", "forbidden"])
async def test_append_when_refused_after_a_stored_try_is_found(scene: Scene, ids: list[str], refusal: str) -> None:
    async def refuse() -> None:
        scene.proxy.change = answering(refusal, 1, [])

    stored = await scene.lose(ids, refuse, cut=True)
    assert stored.sequences == list(range(3, 3 + len(ids)))
    assert await scene.last_seq() == 2 + len(ids)


@single_or_batch
async def test_append_when_a_lost_try_may_be_under_way_asks_again(scene: Scene, ids: list[str]) -> None:
    count: list[int] = []
    scene.proxy.lost.add(UP)
    storing = asyncio.create_task(scene.faulty.store(*ids, sequence=1))
    await asyncio.sleep(0.1)
    scene.proxy.change = answering("under way", 1, count)
    scene.proxy.cut()
    scene.proxy.lost.clear()
    stored = await asyncio.wait_for(storing, 20)
    assert stored.sequences == list(range(3, 3 + len(ids)))
    assert len(count) == 1
    assert await scene.last_seq() == 2 + len(ids)


@single_or_batch
async def test_append_when_refused_for_good_raises_the_servers_error(scene: Scene, ids: list[str]) -> None:
    scene.proxy.change = answering("forbidden", 1, [])
    with pytest.raises(eda.ServerError, match="sealed") as refusal:
        await scene.faulty.store(*ids, sequence=1)
    assert not refusal.value.may_be_stored


async def test_batch_when_the_server_has_too_many_waits(scene: Scene) -> None:
    count: list[int] = []
    await scene.faulty.store("i1", sequence=1)
    scene.proxy.change = answering("batch", 3, count)
    stored = await scene.faulty.store("i2", "i3", aggregate="c", sequence=0)
    assert len(count) == 3
    assert stored.is_duplicate  # the server had stored the first try: only the answer was changed


@single_or_batch
async def test_append_when_nobody_answers_times_out(scene: Scene, ids: list[str]) -> None:
    scene.proxy.drop_if = lambda message: b'{"stream":' in message or b'{"error":' in message
    with pytest.raises(eda.Timeout, match=r"append( of event i1)? took longer than 1 s"):
        await scene.faulty.store(*ids, sequence=1, timeout_s=1)
    assert not scene.faulty.under_way


@single_or_batch
async def test_close_when_an_append_is_looked_up_waits_for_it(scene: Scene, ids: list[str]) -> None:
    closing: list[asyncio.Task[None]] = []

    async def close() -> None:
        closing.append(asyncio.create_task(scene.faulty.conn.close()))
        await asyncio.sleep(0)

    stored = await scene.lose(ids, close)
    assert stored.sequences == list(range(3, 3 + len(ids)))
    await closing[0]


# --- another server, forbidden subjects ------------------------------------------------------------------------------


async def test_append_when_the_server_takes_less_than_before_is_looked_up(own_server: eda.EmbeddedServer) -> None:
    async with eda.connect(own_server.url) as conn, FaultyProxy(own_server.port) as proxy:
        await conn.streams.create("orders")
        async with eda.connect(proxy.url(own_server.url)) as faulty:
            writer = Writer(faulty, "orders")
            await writer.store("i0", sequence=0)
            proxy.drop_if = lambda message: b'{"stream":' in message
            large = [envelope_of("large", size=50_000)]
            storing = asyncio.create_task(writer.appending.store("a", large, sequence=1))
            await until(lambda: proxy.n_dropped)
            proxy.refusing = True
            proxy.cut()
            lost = asyncio.create_task(writer.appending.store("b", [envelope_of("lost", size=50_000)], sequence=0))
            await asyncio.sleep(0.05)
            await own_server.kill()
            own_server._config["max_payload"] = 10_000
            await own_server.start()
            proxy.drop_if = None
            proxy.target, proxy.refusing = own_server.port, False
            assert await asyncio.wait_for(storing, 20) == Stored([2], True)
            with pytest.raises(eda.EdaError, match="max_payload"):
                await asyncio.wait_for(lost, 20)


@single_or_batch
async def test_append_when_the_server_forbids_it_fails_at_once(ids: list[str], logged: Logged) -> None:
    logged.expect("the server forbids")
    users = [
        {"user": "free", "password": "p"},
        {"user": "bound", "password": "p", "permissions": {"publish": {"deny": ["orders.t0.a"]}}},
    ]
    async with eda.EmbeddedServer(config={"authorization": {"users": users}}) as server:
        async with eda.connect(server.url, user="free", password="p") as free:
            await free.streams.create("orders")
        async with eda.connect(server.url, user="bound", password="p") as bound:
            with pytest.raises(eda.ServerError, match=r"no permission to publish to orders\.t0\.a"):
                await Writer(bound, "orders").store(*ids, sequence=0, timeout_s=5)
