"""eda.cli.contexts: contexts of the nats command line, and which server a command uses."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eda.cli.contexts import connect_arguments, context_names, read_context, selected_context
from eda.cli.failure import Failure
from support.transport.certificates import LOOPBACK, Authority

Save = Callable[..., None]
VARIABLES = ("EDA_URL", "NATS_URL", "EDA_USER", "EDA_PASSWORD", "EDA_TOKEN")
ADDR = "nats://127.0.0.1:4222"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty directory of settings, and an environment that names no server."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config" / "nats" / "context").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def save(home: Path) -> Save:
    def save(name: str = "prod", /, *, select: bool = False, **fields: Any) -> None:
        nats = home / "config" / "nats"
        (nats / "context" / f"{name}.json").write_text(json.dumps(fields))
        if select:
            (nats / "context.txt").write_text(f"{name}\n")

    return save


def using(**options: Any) -> dict[str, Any]:
    return connect_arguments({"addr": None, "context": None, "token": None} | options)


def test_connect_arguments_when_nothing_is_given_leaves_the_address_to_eda() -> None:
    assert using() == {}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"url": "nats://a:4222,nats://b:4222"}, {"addr": "nats://a:4222,nats://b:4222"}),
        ({}, {}),
        ({"url": "", "user": "", "creds": "", "tls_first": False, "windows_ca_certs_match": []}, {}),
        ({"user": "ann", "password": "secret"}, {"user": "ann", "password": "secret"}),
        ({"user": "ann"}, {"user": "ann", "password": ""}),
        ({"token": "secret"}, {"token": "secret"}),
        ({"creds": "/x/a.creds"}, {"credentials": "/x/a.creds"}),
        ({"creds": "file:///x/a%20b.creds"}, {"credentials": "/x/a b.creds"}),
        ({"nkey": "/x/a.nk"}, {"nkey": "/x/a.nk"}),
        ({"jetstream_domain": "hub"}, {"cluster": "hub"}),
        ({"jetstream_api_prefix": "$JS.hub.API"}, {"cluster": "hub"}),
        ({"jetstream_api_prefix": "$JS.API"}, {}),
        ({"jetstream_api_prefix": "$JS.hub.API", "jetstream_domain": "hub"}, {"cluster": "hub"}),
        ({"name": "x", "description": "y", "color_scheme": "z", "jetstream_event_prefix": "$JS.EVENT"}, {}),
    ],
)
def test_connect_arguments_when_a_context_is_named_has_its_settings(
    save: Save, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    save(**fields)
    assert using(context="prod") == {"addr": ADDR} | expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user_jwt", "eyJ..."),
        ("user_seed", "SU..."),
        ("nsc", "nsc://operator/account/user"),
        ("socks_proxy", "socks5://127.0.0.1"),
        ("inbox_prefix", "_INBOX_ann"),
        ("tls_first", True),
        ("windows_cert_store", "user"),
        ("windows_cert_match_by", "subject"),
        ("windows_cert_match", "ann"),
        ("windows_ca_certs_match", ["ca"]),
        ("something_new", 1),
    ],
)
def test_connect_arguments_when_a_setting_can_not_be_used_names_it(save: Save, field: str, value: Any) -> None:
    save(url="nats://a", **{field: value})
    with pytest.raises(Failure, match=f"the context 'prod' has settings that eda can't use: {field}$"):
        using(context="prod")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"jetstream_api_prefix": "other.API"}, r"jetstream_api_prefix that eda can't use: 'other.API'"),
        ({"jetstream_api_prefix": "$JS.a.API", "jetstream_domain": "b"}, "contradicts its jetstream_domain"),
        ({"creds": "op://vault/item"}, "has a creds that eda can't use: a reference of the kind 'op'"),
        ({"creds": "data:;base64,AAAA"}, "has a creds that eda can't use: a reference of the kind 'data'"),
        ({"ca": "env://CA"}, "has a ca that eda can't use: a reference of the kind 'env'"),
        ({"token": "op://vault/item"}, "has a token that eda can't use: a reference of the kind 'op'"),
        ({"token": "env://NO_SUCH"}, r"takes its token from \$NO_SUCH, which is not set"),
        ({"token": "file:///no/such"}, "takes its token from /no/such, which can't be read"),
        ({"user": "ann", "creds": "/a"}, "has several ways to log in: user, credentials"),
        ({"password": "secret"}, "has a password and no user$"),
        ({"user": 7}, "has a user that is not a text"),
        ({"cert": "/a"}, "a client's certificate and its key must be given together"),
        ({"ca": "/no/such/ca.pem"}, r"the TLS files can't be used \(/no/such/ca.pem\): No such file"),
    ],
)
def test_connect_arguments_when_a_setting_is_wrong_says_why(save: Save, fields: dict[str, Any], message: str) -> None:
    save(**fields)
    with pytest.raises(Failure, match=message):
        using(context="prod")


def test_connect_arguments_when_secrets_are_kept_elsewhere_reads_them(
    save: Save, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "from the environment")
    (home / "token").write_text("from a file\n")
    save("env", user="ann", password="env://SECRET")
    save("file", token=f"file://{home}/token")
    assert using(context="env")["password"] == "from the environment"
    assert using(context="file")["token"] == "from a file"


def test_connect_arguments_when_a_path_has_the_home_or_a_variable_expands_it(
    save: Save, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYS", "/keys")
    save("home", creds="~/a.creds")
    save("variable", nkey="$KEYS/a.nk")
    assert using(context="home")["credentials"] == f"{home}/a.creds"
    assert using(context="variable")["nkey"] == "/keys/a.nk"


def test_connect_arguments_when_the_context_has_tls_files_loads_them(save: Save, home: Path) -> None:
    authority = Authority(home)
    client = authority.issue("client", *LOOPBACK)
    save(ca=str(authority.file()), cert=client["cert_file"], key=client["key_file"])
    context = using(context="prod")["tls"]
    assert isinstance(context, ssl.SSLContext)
    assert len(context.get_ca_certs()) >= 1
    assert context.verify_mode == ssl.CERT_REQUIRED


def test_connect_arguments_when_a_context_is_selected_uses_it_only_if_nothing_else_names_a_server(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(select=True, url="nats://selected", token="secret")
    save("other", url="nats://other")
    assert selected_context() == "prod"
    assert using() == {"addr": "nats://selected", "token": "secret"}
    assert using(context="other") == {"addr": "nats://other"}
    assert using(addr="nats://option") == {"addr": "nats://option"}
    monkeypatch.setenv("NATS_URL", "nats://environment")
    assert using() == {}


def test_connect_arguments_when_both_address_and_context_are_given_refuses() -> None:
    with pytest.raises(Failure, match="--addr and --context name two servers"):
        using(addr="nats://a", context="prod")


def test_connect_arguments_when_an_option_logs_in_drops_the_way_of_the_context(save: Save) -> None:
    save(url="nats://a", user="ann", password="secret", jetstream_domain="hub")
    assert using(context="prod", token="mine") == {"addr": "nats://a", "cluster": "hub", "token": "mine"}


def test_connect_arguments_when_two_options_log_in_refuses() -> None:
    with pytest.raises(Failure, match="--token and --nkey are two ways to log in"):
        using(token="a", nkey="b")


def test_connect_arguments_when_the_environment_has_credentials_uses_them_only_without_a_context(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(url="nats://a")
    monkeypatch.setenv("EDA_TOKEN", "of another server")
    assert using(context="prod") == {"addr": "nats://a"}
    assert using(addr="nats://b") == {"addr": "nats://b", "token": "of another server"}
    assert using(nkey="/x") == {"nkey": "/x"}
    monkeypatch.setenv("EDA_PASSWORD", "secret")
    assert using(user="ann") == {"user": "ann", "password": "secret"}
    assert using(user="ann", password="mine") == {"user": "ann", "password": "mine"}
    with pytest.raises(Failure, match="EDA_TOKEN and EDA_USER are two ways to log in"):
        using()


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", "a\\b", "a\nb", "x" * 256])
def test_read_context_when_the_name_is_no_name_refuses(name: str) -> None:
    with pytest.raises(Failure, match="is not the name of a context"):
        read_context(name)


def test_read_context_when_it_is_missing_names_the_others(save: Save) -> None:
    save("one")
    save("two")
    assert context_names() == ["one", "two"]
    with pytest.raises(Failure, match=r"there is no context 'three': .* does not exist; there are one, two$"):
        read_context("three")


@pytest.mark.parametrize("content", ["", "[]", '"x"', '{"token": "secret"', "\xff", "[" * 100_000, "null"])
def test_read_context_when_the_file_is_damaged_says_so_without_its_secrets(home: Path, content: str) -> None:
    (home / "config" / "nats" / "context" / "bad.json").write_text(content, encoding="latin-1")
    with pytest.raises(Failure, match=r"is not (JSON|a JSON object)$") as caught:
        read_context("bad")
    assert "secret" not in str(caught.value)


def test_shown_url_when_the_url_has_credentials_leaves_them_out(save: Save) -> None:
    save(url="nats://ann:secret@a:4222, tls://token@b")
    found = read_context("prod")
    assert found.shown_url() == "nats://a:4222,tls://b"
    assert found.login() == "url"
