"""The private PostgreSQL of the tests: what it keeps when it is killed, and that it does not outlive its process."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time

import psycopg
import pytest

from processes import environment
from support.projections.postgres import Postgres

HOLDER = """
import time
from support.projections.postgres import Postgres

with Postgres() as server:
    print(server.port, server._home, flush=True)
    time.sleep(60)
"""


def test_server_when_killed_and_started_again_has_all_that_was_committed(own_postgres: Postgres) -> None:
    own_postgres.execute("CREATE TABLE kept (n int)")
    with psycopg.connect(own_postgres.url()) as connection:
        connection.execute("INSERT INTO kept VALUES (1)")
        connection.commit()
        connection.execute("INSERT INTO kept VALUES (2)")
        own_postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
    own_postgres.start()
    assert own_postgres.execute("SELECT n FROM kept") == [(1,)]


def test_server_when_frozen_does_not_answer_until_it_goes_on(own_postgres: Postgres) -> None:
    own_postgres.freeze()
    with pytest.raises(psycopg.errors.ConnectionTimeout):
        psycopg.connect(own_postgres.url(), connect_timeout=2)
    own_postgres.thaw()
    assert own_postgres.execute("SELECT 1") == [(1,)]


def test_database_when_a_connection_to_it_is_left_says_so(
    own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("support.projections.postgres.LEFT_S", 0.1)
    with pytest.raises(AssertionError, match=r"connections are left.*forgotten"):
        with own_postgres.database() as url:
            connection = psycopg.connect(url, application_name="forgotten")
    connection.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_server_when_its_process_is_killed_ends() -> None:
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        port, home = holder.stdout.readline().split()
        holder.kill()
    end = time.monotonic() + 10
    while takes_connections(int(port)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not takes_connections(int(port))
    shutil.rmtree(home)


def takes_connections(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
