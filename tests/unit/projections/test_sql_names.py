"""The names of `eda.sql`: loaded when they are used, and clear about a driver that is missing."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from eda import sql

DRIVERS = ("psycopg", "asyncpg", "sqlalchemy", "aiosqlite", "sqlite3")

NEEDS = {"Asyncpg": "asyncpg", "Psycopg": "psycopg", "SQLAlchemy": "sqlalchemy"}


def run(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_import_when_no_name_is_used_loads_no_driver() -> None:
    loaded = run("import sys, eda.sql; print(*sys.modules)").split()
    assert not {*DRIVERS} & {*loaded}


def test_sqlite_when_used_loads_no_other_driver() -> None:
    loaded = run("import sys, eda; eda.sql.SQLite('read.db'); print(*sys.modules)").split()
    assert {*DRIVERS} & {*loaded} == {"sqlite3"}


@pytest.mark.parametrize(("name", "package"), NEEDS.items())
def test_name_when_its_driver_is_missing_names_the_extra(name: str, package: str) -> None:
    hidden = f"import sys; sys.modules[{package!r}] = None"
    message = run(f"{hidden}\nimport eda\ntry: eda.sql.{name}\nexcept eda.ConfigError as error: print(error)")
    assert f"eda.sql.{name} needs the package {package}" in message
    assert f"pip install 'eda-fast[{package}]'" in message


def test_names_when_listed_are_all_there() -> None:
    assert sorted(sql._FILES) == sorted(sql.__all__)
    assert {*sql.__all__} <= {*dir(sql)}
    for name in sql.__all__:
        assert getattr(sql, name) is getattr(importlib.import_module(f"eda.projections.{sql._FILES[name]}"), name)


def test_name_when_unknown_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'MySQL'"):
        sql.MySQL  # noqa: B018
