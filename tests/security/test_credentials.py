"""Every way to log in, against a real server that asks for it, and what never shows the secret."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nkeys
import pytest

import eda
from helpers import Logged, until
from support.transport.faulty_proxy import FaultyProxy
from support.transport.nats_jwt import Operator, new_key, seed_of

PASSWORD = "hunter2/p@ss:w%rd"


@dataclass
class Login:
    """A way to log in: the server's settings, what to say to connect, the same with a wrong secret; and the secrets."""

    config: dict[str, Any]
    right: dict[str, Any]
    wrong: dict[str, Any]
    secrets: list[str] = field(default_factory=list)


def password(tmp_path: Path) -> Login:
    users = {"authorization": {"users": [{"user": "me", "password": PASSWORD}]}}
    right, wrong = {"user": "me", "password": PASSWORD}, {"user": "me", "password": f"{PASSWORD}x"}
    return Login(users, right, wrong, [PASSWORD, "p@ss"])


def password_in_url(tmp_path: Path) -> Login:
    users = {"authorization": {"users": [{"user": "me", "password": "hunter2-p"}]}}
    return Login(users, {"userinfo": "me:hunter2-p@"}, {"userinfo": "me:hunter2-pp@"}, ["hunter2"])


def token(tmp_path: Path) -> Login:
    config = {"authorization": {"token": "hunter2-token"}}
    return Login(config, {"token": "hunter2-token"}, {"token": "hunter2-wrong"}, ["hunter2"])


def token_in_url(tmp_path: Path) -> Login:
    config = {"authorization": {"token": "hunter2-token"}}
    return Login(config, {"userinfo": "hunter2-token@"}, {"userinfo": "hunter2-wrong@"}, ["hunter2"])


def nkey(tmp_path: Path) -> Login:
    key, other = new_key(nkeys.PREFIX_BYTE_USER), new_key(nkeys.PREFIX_BYTE_USER)
    config = {"authorization": {"users": [{"nkey": bytes(key.public_key).decode()}]}}
    (tmp_path / "right.nk").write_text(seed_of(key))
    (tmp_path / "wrong.nk").write_text(seed_of(other))
    right, wrong = {"nkey": tmp_path / "right.nk"}, {"nkey": str(tmp_path / "wrong.nk")}
    return Login(config, right, wrong, [seed_of(key), seed_of(other), seed_of(key)[4:30], seed_of(other)[4:30]])


def creds(tmp_path: Path) -> Login:
    operator = Operator()
    user, other = operator.user("me"), operator.user("me", issued_by_another=True)
    right = {"credentials": user.write(tmp_path / "right.creds")}
    wrong = {"credentials": str(other.write(tmp_path / "wrong.creds"))}
    return Login(operator.config, right, wrong, [user.seed, other.seed, user.jwt[-40:], other.jwt[-40:]])


LOGINS = [password, password_in_url, token, token_in_url, nkey, creds]
each_login = pytest.mark.parametrize("login", LOGINS, ids=lambda way: way.__name__, indirect=True)


@pytest.fixture
def login(request: pytest.FixtureRequest, tmp_path: Path) -> Login:
    made: Login = request.param(tmp_path)
    return made


def dial(server: eda.EmbeddedServer, options: dict[str, Any], port: int | None = None, **more: Any) -> eda.Conn:
    given = dict(options)
    userinfo = given.pop("userinfo", "")
    return eda.connect(f"nats://{userinfo}127.0.0.1:{port or server.port}", **given, **more)


@pytest.fixture
def everything(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.LogCaptureFixture]:
    """Have all loggers tell all, the event loop in its debug mode too."""
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    with caplog.at_level(logging.DEBUG):
        for name in ("eda", "nats", "asyncio"):
            caplog.set_level(logging.DEBUG, logger=name)
        yield caplog


def shown(caplog: pytest.LogCaptureFixture) -> str:
    """Give all that was logged, with arguments and tracebacks."""
    formatter = logging.Formatter("%(name)s %(message)s %(pathname)s")
    return "\n".join(formatter.format(record) + repr(record.args) for record in caplog.records)


def texts_of(error: BaseException) -> str:
    """Give everything that an error shows, with all that led to it."""
    texts = ["".join(traceback.format_exception(error))]
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        texts += [str(each), repr(each), repr(each.args), repr(vars(each)), *getattr(each, "__notes__", [])]
        todo += [each.__cause__, each.__context__]
    texts.append(repr(pickle.loads(pickle.dumps(error))))
    return "\n".join(texts)


@each_login
async def test_login_when_right_works_and_shows_no_secret(login: Login, everything: pytest.LogCaptureFixture) -> None:
    asyncio.get_running_loop().set_debug(True)
    async with eda.EmbeddedServer(config=login.config) as server:
        conn = dial(server, login.right, client="me")
        reprs = [
            repr(conn),
            str(conn),
            repr(conn._lifetime._options),
            repr(conn._lifetime.addresses),
            str(conn._lifetime.addresses),
        ]
        async with conn:
            seen: list[str] = []
            sent = (await conn.publish("stream")).id
            async with conn.subscribe("stream", lambda event: seen.append(event.id), backfill=True) as subscription:
                await until(lambda: seen == [sent])
                reprs += [
                    repr(conn),
                    repr(subscription),
                    repr(conn._lifetime._services),
                    repr(conn.streams),
                    repr(server),
                ]
            async with conn.publisher("stream") as pub:
                await pub.send(eda.Event())
                reprs += [repr(pub)]
            reprs += [repr(task) for task in asyncio.all_tasks()]
    for secret in login.secrets:
        assert secret not in "\n".join(reprs)
        assert secret not in shown(everything)


@each_login
async def test_login_when_wrong_fails_at_once_and_shows_no_secret(
    login: Login, everything: pytest.LogCaptureFixture
) -> None:
    async with eda.EmbeddedServer(config=login.config) as server:
        for options in (login.wrong, {}):
            begin = time.monotonic()
            with pytest.raises(eda.ConnectError) as caught:
                await dial(server, options)
            assert time.monotonic() - begin < 4
            assert "authorization" in str(caught.value).lower() or "authentication" in str(caught.value).lower()
            assert f"nats://127.0.0.1:{server.port}" in str(caught.value)
            for secret in login.secrets:
                assert secret not in texts_of(caught.value)
        for secret in login.secrets:
            assert secret not in shown(everything)


@each_login
async def test_login_when_the_connection_breaks_is_done_again_and_shows_no_secret(
    login: Login, everything: pytest.LogCaptureFixture
) -> None:
    async with eda.EmbeddedServer(config=login.config) as server, FaultyProxy(server.port) as proxy:
        async with dial(server, login.right, proxy.port) as conn:
            await conn.publish("stream")
            proxy.refusing = True
            proxy.cut()
            publishing = asyncio.create_task(conn.publish("stream"))
            await asyncio.sleep(0.3)
            proxy.refusing = False
            await asyncio.wait_for(publishing, 10)
            assert (await conn.streams.info("stream")).events == 2
    for secret in login.secrets:
        assert secret not in shown(everything)


async def test_login_when_the_secret_changes_goes_on_when_it_is_right_again(
    everything: pytest.LogCaptureFixture, logged: Logged
) -> None:
    """A server that comes back with other users refuses for a while; nothing is lost, nothing is shown."""
    logged.allow("uthorization")
    users = {"authorization": {"users": [{"user": "me", "password": "hunter2"}]}}
    async with eda.EmbeddedServer(config=users) as server:
        async with dial(server, {"userinfo": "me:hunter2@"}) as conn:
            await conn.publish("stream")
            await server.kill()
            server._config["authorization"] = {"users": [{"user": "me", "password": "another"}]}
            await server.start()
            publishing = asyncio.create_task(conn.publish("stream", timeout_s=30))
            await asyncio.sleep(0.5)
            assert not publishing.done()
            await server.kill()
            server._config["authorization"] = users["authorization"]
            await server.start()
            await asyncio.wait_for(publishing, 15)
            assert (await conn.streams.info("stream")).events == 2
    assert "hunter2" not in shown(everything)


# --- secrets in the wrong place --------------------------------------------------------------------------------------

SEED = "SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU"
CREDS = f"-----BEGIN NATS USER JWT-----\neyJhbGciOi.hunter2.x\n------END\n-----BEGIN USER NKEY SEED-----\n{SEED}\n"


@pytest.mark.parametrize(
    "options",
    [
        {"nkey": SEED},
        {"nkey": f" {SEED} "},
        {"nkey": SEED * 100},
        {"credentials": CREDS},
        {"credentials": CREDS * 50},
        {"credentials": CREDS.replace("\n", " ")},
        {"credentials": CREDS.encode()},
        {"credentials": Path(SEED)},
        {"nkey": b"hunter2"},
        {"user": "me", "password": b"hunter2"},
        {"user": "me", "password": ["hunter2"]},
        {"token": b"hunter2"},
        {"token": ("hunter2",)},
        {"user": b"hunter2", "password": "hunter2"},
        {"addr": "nats://me:hunter2"},
        {"addr": "me:hunter2"},
        {"addr": "nats://me:hunter2@"},
        {"addr": "nats://me:hunter2@host:port"},
        {"addr": "nats://me:hun/ter2@host/hunter2@"},
        {"addr": ["nats://a:hunter2@x", "nats://b:hunter2@y"]},
        {"addr": "http://me:hunter2@host"},
        {"addr": ["nats://me:hunter2@host\r\nPING"]},
    ],
    ids=lambda options: ascii(options)[:60],
)
def test_secret_when_it_stands_in_the_wrong_place_is_refused_and_not_shown(options: dict[str, Any]) -> None:
    given = dict(options)
    with pytest.raises(eda.ConfigError) as caught:
        eda.connect(given.pop("addr", "nats://127.0.0.1:1"), **given)
    shown = texts_of(caught.value).replace(str(Path(__file__)), "")
    lines = [line for line in shown.splitlines() if not line.lstrip().startswith(("eda.connect", "File"))]
    for secret in ("hunter2", SEED[4:40]):
        assert secret not in "\n".join(lines)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("nkey", ""),
        ("nkey", "hunter2"),
        ("nkey", f"{SEED[:-1]}A-hunter2"),
        ("credentials", ""),
        ("credentials", "hunter2"),
        ("credentials", "-----BEGIN NATS USER JWT-----\nhunter2\n------END NATS USER JWT------\n"),
        ("credentials", CREDS.replace(SEED, "hunter2")),
    ],
    ids=ascii,
)
async def test_secret_when_its_file_makes_no_sense_fails_at_once_and_is_not_shown(
    option: str, text: str, tmp_path: Path, everything: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "secret"
    file.write_text(text)
    config = {"authorization": {"users": [{"nkey": bytes(new_key(nkeys.PREFIX_BYTE_USER).public_key).decode()}]}}
    async with eda.EmbeddedServer(config=config) as server:
        begin = time.monotonic()
        with pytest.raises(eda.ConnectError) as caught:
            await eda.connect(f"nats://127.0.0.1:{server.port}", **{option: file})
        assert time.monotonic() - begin < 4
    assert "hunter2" not in texts_of(caught.value)
    assert "hunter2" not in shown(everything)


def test_options_when_copied_and_shown_have_no_secret() -> None:
    conn = eda.connect("nats://127.0.0.1:1", user="me", password="hunter2")
    assert "hunter2" not in repr(copy.copy(conn._lifetime._options))


async def test_credentials_when_their_path_looks_like_a_secret_are_read_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "monkeyJobs.creds"
    path.write_text("not read before connecting")
    conn = eda.connect("nats://127.0.0.1:1", credentials=path)
    assert repr(conn)
