"""`eda.sql.from_url`: addresses of databases, and the sinks for them."""

from __future__ import annotations

import pytest

import eda
import eda.sql


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("sqlite:///read.db", "SQLite read.db"),
        ("sqlite:////var/lib/read.db", "SQLite /var/lib/read.db"),
        ("sqlite:///with%20space.db", "SQLite with space.db"),
        ("SQLITE:///read.db", "SQLite read.db"),
    ],
)
def test_from_url_when_given_a_path_returns_sqlite(url: str, label: str) -> None:
    sink = eda.sql.from_url(url)
    assert isinstance(sink, eda.sql.SQLite)
    assert sink.label == label


@pytest.mark.parametrize(
    "url",
    [
        "read.db",
        "sqlite:read.db",
        "sqlite://",
        "sqlite:///",
        "sqlite://host/read.db",
        "sqlite+aiosqlite:///read.db",
        "mysql://user:secret@host/db",
        "postgresql:user:secret@host/db",
        "postgresql+pg8000://user:secret@host/db",
        "",
        7,
    ],
)
def test_from_url_when_the_address_is_wrong_raises_without_the_password(url: str) -> None:
    with pytest.raises(eda.ConfigError) as raised:
        eda.sql.from_url(url)
    assert raised.value.argument == "url"
    assert "secret" not in str(raised.value)
