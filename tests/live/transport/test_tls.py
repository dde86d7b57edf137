"""TLS: a server with a certificate of a test's own authority."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

import eda
import eda.transport.wire
from eda.jetstream.api import Api
from helpers import LOOPS, Logged, Proxy, until, wire_of
from support.transport.certificates import LOOPBACK, Authority

every_loop = pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)
NewLoop = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


def tls_server(authority: Authority, *names: x509.GeneralName, **config: Any) -> eda.EmbeddedServer:
    return eda.EmbeddedServer(config={"tls": authority.issue("server", *(names or LOOPBACK)), **config})


def run(new_loop: NewLoop, main: Callable[[], Any]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(bounded())


@every_loop
def test_tls_when_the_server_is_trusted_carries_everything(authority: Authority, new_loop: NewLoop) -> None:
    async def main() -> None:
        async with tls_server(authority) as server, eda.connect(server.url, tls=authority.context()) as conn:
            seen: list[eda.Event] = []
            async with conn.subscribe("stream", seen.append):
                data = [eda.Bytes(bytes([n]) * (n * 9_973 % 900_000)) for n in range(100)]
                await asyncio.gather(*(conn.publish("stream", eda.Event(data=each)) for each in data))
                await until(lambda: len(seen) == 100)
            assert sorted(event.data.encode() for event in seen) == sorted(each.encode() for each in data)

    run(new_loop, main)


@every_loop
def test_tls_when_the_server_is_killed_connects_again(
    authority: Authority, new_loop: NewLoop, short_lease: float, logged: Logged
) -> None:
    async def main() -> None:
        async with tls_server(authority) as server, eda.connect(server.url, tls=authority.context()) as conn:
            seen: set[str] = set()
            async with conn.subscribe("stream", lambda event: seen.add(event.id), name="me", durable=True):
                for _ in range(3):
                    publishing = asyncio.gather(*(conn.publish("stream") for _ in range(50)))
                    await asyncio.sleep(0.005)
                    await server.kill()
                    await server.start()
                    ids = {receipt.id for receipt in await publishing}
                    await until(lambda ids=ids: ids <= seen)
            assert (await conn.streams.info("stream")).events == 150

    run(new_loop, main)
    assert not logged.find("eof_received")


@every_loop
def test_tls_when_the_peer_falls_silent_connects_again(
    authority: Authority, new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with tls_server(authority) as server, Proxy(server.port) as proxy:
            conn = await eda.connect(proxy.url(server.url), tls=authority.context())
            await conn.publish("stream")
            proxy.hold()
            big = eda.Event(data=eda.Bytes(bytes(900_000)))
            publishing = [asyncio.create_task(conn.publish("stream", big)) for _ in range(20)]
            await until(lambda: conn.state == "disconnected", 5)
            proxy.release()
            await until(lambda: conn.state == "reconnected", 5)
            await asyncio.wait_for(asyncio.gather(*publishing), 15)
            await conn.close()

    monkeypatch.setattr(eda.transport.wire, "PING_INTERVAL_S", 0.2)
    run(new_loop, main)


@every_loop
def test_tls_when_closed_with_a_silent_peer_ends_in_time(
    authority: Authority, new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with tls_server(authority) as server, Proxy(server.port) as proxy:
            conn = await eda.connect(proxy.url(server.url), tls=authority.context())
            proxy.hold()
            begin = time.monotonic()
            await conn.close()
            assert time.monotonic() - begin < 3

    monkeypatch.setattr(eda.transport.wire, "SHUT_TIMEOUT_S", 0.3)
    run(new_loop, main)


@every_loop
def test_tls_when_opening_fails_with_a_silent_peer_does_not_wait_for_it(
    authority: Authority, new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with tls_server(authority) as server, Proxy(server.port) as proxy:

            async def discover(api: Api, timeout_s: float) -> None:
                proxy.hold()
                raise eda.Timeout("asking", timeout_s)

            monkeypatch.setattr(Api, "discover", discover)
            begin = time.monotonic()
            with pytest.raises(eda.ConnectError):
                await eda.connect(proxy.url(server.url), tls=authority.context())
            assert time.monotonic() - begin < 4

    run(new_loop, main)


@every_loop
def test_tls_when_the_authority_is_unknown_fails_at_once(
    authority: Authority, new_loop: NewLoop, tmp_path: Path
) -> None:
    async def main() -> None:
        async with tls_server(authority) as server:
            for tls in (Authority(tmp_path, "other").context(), None):
                begin = time.monotonic()
                with pytest.raises(eda.ConnectError, match="certificate verify failed") as caught:
                    await eda.connect(server.url, tls=tls)
                assert time.monotonic() - begin < 4
                assert server.token not in f"{caught.value}{caught.value!r}"
                assert not caught.value.retryable

    run(new_loop, main)


@every_loop
def test_tls_when_the_certificate_is_for_another_name_fails_at_once(authority: Authority, new_loop: NewLoop) -> None:
    async def main() -> None:
        async with tls_server(authority, x509.DNSName("example.org")) as server:
            begin = time.monotonic()
            with pytest.raises(eda.ConnectError, match=r"127\.0\.0\.1") as caught:
                await eda.connect(server.url, tls=authority.context())
            assert time.monotonic() - begin < 4
            assert not caught.value.retryable

    run(new_loop, main)


async def test_tls_when_the_url_says_tls_works(authority: Authority) -> None:
    async with tls_server(authority) as server:
        url = server.url.replace("nats:", "tls:")
        async with eda.connect(url, tls=authority.context()) as conn:
            await conn.publish("stream")


async def test_tls_when_the_server_only_allows_it_is_used(authority: Authority) -> None:
    settings = {"tls": authority.issue("server", *LOOPBACK), "allow_non_tls": True}
    async with eda.EmbeddedServer(config=settings) as server:
        async with eda.connect(server.url, tls=authority.context()) as conn:
            assert wire_of(conn)._interceptor.transport.get_extra_info("ssl_object") is not None
            await conn.publish("stream")
        with pytest.raises(eda.ConnectError, match="certificate verify failed"):
            await eda.connect(server.url.replace("nats:", "tls:"))


async def test_tls_when_it_is_asked_for_and_the_server_has_none_sends_no_credentials(authority: Authority) -> None:
    async with eda.EmbeddedServer() as server, Proxy(server.port) as proxy:
        url = proxy.url(server.url)
        for addr, tls in ((url, authority.context()), (url.replace("nats:", "tls:"), None)):
            with pytest.raises(eda.ConnectError, match="TLS") as caught:
                await eda.connect(addr, tls=tls, connect_timeout_s=0.5)
            assert not caught.value.retryable
        assert not proxy.sent


async def test_tls_when_the_client_shows_a_certificate_is_let_in(authority: Authority, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.crt"
    ca_file.write_bytes(authority.certificate.public_bytes(serialization.Encoding.PEM))
    settings = authority.issue("server", *LOOPBACK) | {"ca_file": str(ca_file), "verify": True}
    mine = authority.issue("client", x509.RFC822Name("me@example.org"))
    context = authority.context()
    context.load_cert_chain(mine["cert_file"], mine["key_file"])
    async with eda.EmbeddedServer(config={"tls": settings}) as server:
        async with eda.connect(server.url, tls=context) as conn:
            await conn.publish("stream")
        with pytest.raises(eda.ConnectError) as caught:
            await eda.connect(server.url, tls=authority.context(), connect_timeout_s=1)
        assert not caught.value.retryable


async def test_tls_when_the_clients_certificate_is_of_another_authority_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    ca_file = tmp_path / "ca.crt"
    ca_file.write_bytes(authority.certificate.public_bytes(serialization.Encoding.PEM))
    settings = authority.issue("server", *LOOPBACK) | {"ca_file": str(ca_file), "verify": True}
    stranger = Authority(tmp_path, "authority").issue("stranger", x509.RFC822Name("me@example.org"))
    context = authority.context()
    context.load_cert_chain(stranger["cert_file"], stranger["key_file"])
    async with eda.EmbeddedServer(config={"tls": settings}) as server:
        begin = time.monotonic()
        with pytest.raises(eda.ConnectError) as caught:
            await eda.connect(server.url, tls=context, connect_timeout_s=1)
        assert time.monotonic() - begin < 3
        assert not caught.value.retryable


async def test_tls_when_the_certificate_has_expired_fails_at_once(authority: Authority) -> None:
    settings = authority.issue("server", *LOOPBACK, ends=timedelta(days=-1))
    async with eda.EmbeddedServer(config={"tls": settings}) as server:
        begin = time.monotonic()
        with pytest.raises(eda.ConnectError, match="certificate has expired") as caught:
            await eda.connect(server.url, tls=authority.context())
        assert time.monotonic() - begin < 4
        assert not caught.value.retryable


async def test_tls_when_another_answers_after_a_break_gets_no_credentials(
    authority: Authority, tmp_path: Path, logged: Logged
) -> None:
    """Who takes over the address, with a certificate of another authority or with none, is told nothing."""
    impostor_tls = Authority(tmp_path, "impostor").issue("impostor", *LOOPBACK)
    with_tls = eda.EmbeddedServer(config={"tls": impostor_tls})
    async with tls_server(authority) as server, with_tls, eda.EmbeddedServer() as in_the_clear:
        async with Proxy(server.port) as proxy:
            conn = await eda.connect(proxy.url(server.url), tls=authority.context())
            await conn.publish("stream")
            proxy.sent.clear()
            for impostor in (with_tls, in_the_clear):
                proxy.target = impostor.port
                n_accepted = proxy.n_accepted
                proxy.drop()
                await until(lambda n=n_accepted: proxy.n_accepted > n + 1)
            proxy.target = server.port
            await asyncio.wait_for(conn.publish("stream"), 10)
            assert server.token.encode() not in proxy.sent
            assert b"CONNECT" not in proxy.sent
            await conn.close()
    assert logged.find("certificate verify failed|TLS was asked for")
    assert server.token not in logged.text()


async def test_tls_when_only_the_server_asked_for_it_is_insisted_on_after_a_break(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain nats:// URL: the first server wanted TLS, so who has none later is another one, and gets no token."""
    ca_file = tmp_path / "ca.crt"
    ca_file.write_bytes(authority.certificate.public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    async with tls_server(authority) as server, eda.EmbeddedServer() as impostor, Proxy(server.port) as proxy:
        async with eda.connect(proxy.url(server.url)) as conn:
            await conn.publish("stream")
            proxy.sent.clear()
            proxy.target = impostor.port
            n_accepted = proxy.n_accepted
            proxy.drop()
            await until(lambda: proxy.n_accepted > n_accepted + 1)
            assert not proxy.sent
            proxy.target = server.port
            await asyncio.wait_for(conn.publish("stream"), 10)
