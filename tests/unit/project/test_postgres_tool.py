"""The private PostgreSQL of the tests, where it can't be started: the error says what to install."""

from __future__ import annotations

import pytest

from support.projections import postgres


def test_programs_when_no_server_is_installed_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "PLACES", ["/nowhere/*/bin"])
    with pytest.raises(postgres.MissingPostgres, match=r"none is installed.* apt-get install postgresql"):
        postgres.Postgres()
