"""eda.embedded.address: where the embedded server may listen, and how clients reach it."""

from __future__ import annotations

from typing import Any

import pytest

from eda.embedded.address import bracketed, reachable
from eda.embedded.server import EmbeddedServer
from eda.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ({"host": ""}, "host"),
        ({"host": "a b"}, "host"),
        ({"host": "0.0.0.0:1"}, "host"),
        ({"host": 'a"\n'}, "host"),
        ({"host": None}, "host"),
        ({"port": -1}, "port"),
        ({"port": 65536}, "port"),
        ({"port": True}, "port"),
        ({"port": "4222"}, "port"),
        ({"token": 1}, "token"),
        ({"token": "a b"}, "token"),
        ({"token": "ä"}, "token"),
        ({"token": "a\n"}, "token"),
        ({"token": "x" * 1025}, "token"),
        ({"token": "", "host": "0.0.0.0"}, "token"),
        ({"token": "", "host": "example.org"}, "token"),
        ({"token": "x", "config": {"authorization": {"token": "y"}}}, "token"),
    ],
)
def test_server_when_the_address_can_not_be_used_refuses(arguments: dict[str, Any], culprit: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EmbeddedServer(**arguments)
    assert caught.value.argument == culprit


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_server_when_only_this_machine_reaches_it_may_have_no_token(host: str) -> None:
    assert EmbeddedServer(host=host, token="").token == ""


def test_server_when_authorization_is_configured_may_listen_everywhere() -> None:
    assert EmbeddedServer(host="0.0.0.0", token="", config={"authorization": {"token": "x"}}).token == ""


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("fe80::1", "[fe80::1]"), ("a.b", "a.b")],
)
def test_reachable_when_the_host_is_known_is_what_clients_use(host: str, expected: str) -> None:
    assert reachable(host) == expected
    assert bracketed("::1") == "[::1]"
