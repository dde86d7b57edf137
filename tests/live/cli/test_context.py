"""`eda context`, and commands with `--context`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import eda
from support.cli.commands import run_eda
from support.cli.terminal import run_in_terminal
from support.transport.certificates import LOOPBACK, Authority

SECRET = "s3cret"


@pytest.fixture(autouse=True)
def contexts(tmp_path: Path, no_server_named: None) -> Path:
    """Give an empty directory of contexts."""
    directory = tmp_path / "nats" / "context"
    directory.mkdir(parents=True)
    return directory


def save(contexts: Path, name: str, **fields: Any) -> None:
    (contexts / f"{name}.json").write_text(json.dumps(fields))


def select(contexts: Path, name: str) -> None:
    (contexts.parent / "context.txt").write_text(name)


async def lines(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
    ended, out, err = await run_eda(*arguments, "--json")
    assert ended == code, err
    return [json.loads(line) for line in out.splitlines()]


async def test_context_ls_when_there_are_contexts_lists_them_without_secrets(contexts: Path) -> None:
    save(contexts, "dev", url=f"nats://ann:{SECRET}@localhost", description="mine")
    save(contexts, "prod", url="tls://a,tls://b", token=SECRET, tls_first=True)
    (contexts / "broken.json").write_text("{")
    select(contexts, "dev")
    broken, dev, prod = await lines("context", "ls")
    assert dev == {
        "name": "dev",
        "selected": True,
        "url": "nats://localhost",
        "login": "url",
        "description": "mine",
        "usable": True,
        "problem": None,
    }
    assert (prod["login"], prod["usable"], prod["selected"]) == ("token", False, False)
    assert prod["problem"] == "the context 'prod' has settings that eda can't use: tls_first"
    assert (broken["usable"], broken["url"]) == (False, None)
    shown = await run_in_terminal("context", "ls", columns=200)
    assert shown.code == 0
    assert "*  dev " in shown.text
    assert "eda can't use it: the context 'prod' has settings" in shown.text
    assert SECRET not in shown.text
    narrow = await run_in_terminal("context", "ls", columns=80)
    assert all(len(line) <= 80 for line in narrow.text.splitlines())


async def test_context_ls_when_there_are_none_says_so(contexts: Path) -> None:
    assert await lines("context", "ls") == []
    code, out, err = await run_eda("context", "ls")
    assert (code, out) == (0, "")
    assert err == f"there are no contexts in {contexts}\n"


async def test_context_show_when_it_is_selected_shows_its_settings(contexts: Path) -> None:
    save(contexts, "prod", url="nats://a", user="ann", password=SECRET, jetstream_domain="hub")
    select(contexts, "prod")
    (shown,) = await lines("context", "show")
    assert (shown["name"], shown["user"], shown["cluster"]) == ("prod", "ann", "hub")
    assert shown["settings"] == ["jetstream_domain", "password", "url", "user"]
    assert shown["path"] == str(contexts / "prod.json")
    code, out, _ = await run_eda("context", "show", "prod")
    assert code == 0
    assert "user         ann\n" in out
    assert SECRET not in out + json.dumps(shown)


async def test_context_show_when_it_can_not_be_used_ends_with_code_1(contexts: Path) -> None:
    save(contexts, "prod", url="nats://a", nsc="nsc://a/b/c")
    (shown,) = await lines("context", "show", "prod", code=1)
    assert (shown["login"], shown["usable"]) == ("nsc", False)


@pytest.mark.parametrize(
    ("content", "problem"),
    [("{", "is not JSON"), ("[]", "is not a JSON object"), ('{"url": 7}', "has a url that is not a text")],
    ids=["no JSON", "no object", "no text"],
)
async def test_context_show_when_its_file_is_damaged_ends_with_code_1(
    contexts: Path, content: str, problem: str
) -> None:
    save(contexts, "broken", url="nats://a")
    (contexts / "broken.json").write_text(content)
    (shown,) = await lines("context", "show", "broken", code=1)
    assert problem in shown.pop("problem")
    assert (shown.pop("name"), shown.pop("path")) == ("broken", str(contexts / "broken.json"))
    assert not any(shown.values())
    code, out, err = await run_eda("context", "show", "broken", columns=200)
    assert (code, err) == (1, "")
    assert problem in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "nobody"), "Error: there is no context 'nobody'"),
        (("show",), "Error: the nats command line has selected no context: name one"),
    ],
)
async def test_context_show_when_there_is_none_ends_with_code_2(arguments: tuple[str, ...], message: str) -> None:
    code, out, err = await run_eda("context", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(message)


async def test_context_show_when_texts_have_control_characters_never_prints_them(contexts: Path) -> None:
    save(contexts, "prod", url="nats://a", description="\x1b]0;owned\x07\x9b31m")
    for arguments in (("context", "ls"), ("context", "show", "prod")):
        shown = await run_in_terminal(*arguments, columns=200)
        assert b"owned\x07" not in shown.raw
        assert r"\x1b]0;owned\x07" in shown.text


async def test_command_when_a_context_is_selected_logs_in_with_it(contexts: Path) -> None:
    config = {"authorization": {"users": [{"user": "ann", "password": SECRET}]}}
    async with eda.EmbeddedServer(config=config) as server:
        url = f"127.0.0.1:{server.port}"
        async with eda.connect(url, user="ann", password=SECRET) as conn:
            await conn.store("orders").append("a", [eda.Event(type="made")], expected="new")
        save(contexts, "ann", url=url, user="ann", password=SECRET)
        save(contexts, "bob", url=url, user="bob", password="wrong")
        select(contexts, "ann")
        for arguments in ((), ("--context", "ann"), ("--context", "bob", "--user", "ann", "--password", SECRET)):
            code, out, err = await run_eda("store", "cat", "orders", "a", *arguments)
            assert (code, err) == (0, "")
            assert "made" in out
        code, out, err = await run_eda("store", "cat", "orders", "a", "--context", "bob")
        assert (code, out) == (2, "")
        assert err.startswith("Error: ")
        assert "wrong" not in err


async def test_command_when_the_context_has_tls_uses_its_files(contexts: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    settings = authority.issue("server", *LOOPBACK) | {"ca_file": str(authority.file()), "verify": True}
    client = authority.issue("client", *LOOPBACK)
    tls = {"ca": str(authority.file()), "cert": client["cert_file"], "key": client["key_file"]}
    async with eda.EmbeddedServer(config={"tls": settings}) as server:
        save(contexts, "secure", url=server.url, **tls)
        save(contexts, "stranger", url=server.url, ca=tls["ca"])
        code, _, err = await run_eda("store", "cat", "orders", "a", "--context", "secure")
        assert (code, err) == (2, "Error: stream 'orders' does not exist\n")
        code, _, err = await run_eda("store", "cat", "orders", "a", "--context", "stranger")
        assert code == 2
        assert "does not exist" not in err


async def test_command_when_the_context_can_not_be_used_never_connects(contexts: Path) -> None:
    save(contexts, "proxied", url="nats://127.0.0.1:1", socks_proxy="socks5://127.0.0.1:2")
    code, out, err = await run_eda("store", "cat", "orders", "a", "--context", "proxied")
    assert (code, out) == (2, "")
    assert err == "Error: the context 'proxied' has settings that eda can't use: socks_proxy\n"
