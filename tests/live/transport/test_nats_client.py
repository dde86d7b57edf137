"""eda.transport.nats_client: the only file that uses private parts of nats-py, and what these must be like."""

from __future__ import annotations

import ast
import asyncio
import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

import eda
from eda.transport.nats_client import SUPPORTED, ByteStream, MendedClient
from eda.transport.wire import Wire
from support.transport.wires import opened

ROOT = Path(__file__).parents[3]
NATS_PY = f"nats-py {version('nats-py')}"

# The names that eda puts over and beside those of nats-py.
OURS = {**vars(MendedClient), **vars(Wire)}
THEIRS = set(dir(Client())) | set(vars(Client()))


@pytest.fixture(autouse=True)
def _name_the_version() -> None:
    """Say which version of nats-py is tried: of a test that fails, pytest shows what it has printed."""
    print(f"tried with {NATS_PY}; supported: {SUPPORTED}")


@pytest.mark.skipif(not (ROOT / "src").is_dir(), reason="tests of the wheel have no sources")
def test_sources_when_read_use_private_parts_of_nats_py_in_one_file_only() -> None:
    private = {name for name in THEIRS if name.startswith("_") and not name.startswith("__")}
    used = {}
    for path in (ROOT / "src" / "eda").rglob("*.py"):
        is_a_client = path.parent.name == "transport"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            # Elsewhere `self._pending` is a name of eda's own.
            if isinstance(node, ast.Attribute) and (is_a_client or not isinstance(node.value, ast.Name)):
                used.setdefault(path.name, set()).add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_a_client:
                used.setdefault(path.name, set()).add(node.name)
    assert used.pop("nats_client.py") & private >= {"_transport", "_subs", "_process_op_err"}
    assert {name: names & private for name, names in used.items() if names & private} == {}


def test_requirement_when_compared_with_what_the_error_says_is_the_same() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = next(line for line in project["dependencies"] if line.startswith("nats-py"))
    assert required.replace("[nkeys]", "") == SUPPORTED.replace(" ", "")
    assert ",<" in required


def test_nats_py_when_installed_has_the_methods_that_are_overridden_with_the_same_arguments() -> None:
    overridden = {name for name in OURS if callable(getattr(Client, name, None)) and not name.startswith("__")}
    assert overridden >= {
        *("_process_connect_init", "_process_pong", "_process_op_err", "_connect_to_server", "_attempt_reconnect"),
        "_close",
    }
    for name in overridden:
        theirs, ours = getattr(Client, name).__code__, getattr(Wire, name).__code__
        assert ours.co_varnames[: ours.co_argcount] == theirs.co_varnames[: theirs.co_argcount], name
        assert inspect.iscoroutinefunction(getattr(Wire, name)) == inspect.iscoroutinefunction(getattr(Client, name))


async def test_nats_py_when_installed_does_not_use_the_names_that_wire_adds(server: eda.EmbeddedServer) -> None:
    theirs = set(dir(Client())) | set(vars(Client()))
    async with opened(server.url) as wire:
        added = {name for name in OURS if name not in vars(Client)} | (set(vars(wire)) - set(vars(Client())))
    meant = {"__module__", "__doc__", "__firstlineno__", "__static_attributes__"}
    assert not (added & theirs) - meant - {"__init__"} - {name for name in OURS if hasattr(Client, name)}
    assert {"out", "parser", "logger", "_interceptor", "_loop", "_fatal", "_opened", "closing"} <= added - theirs


async def test_nats_py_when_connected_has_the_attributes_that_are_used(server: eda.EmbeddedServer) -> None:
    client = await nats.connect(server.url)
    try:
        assert isinstance(client._transport, TcpTransport)
        reader, writer = client._transport._io_reader, client._transport._io_writer
        assert isinstance(reader, asyncio.StreamReader)
        assert isinstance(writer, asyncio.StreamWriter)
        assert isinstance(reader._buffer, bytearray)
        assert isinstance(writer.transport.get_protocol(), asyncio.StreamReaderProtocol)
        assert client._status == Client.CONNECTED
        assert client._pongs == []
        assert client._pings_outstanding == 0
        assert client._pending == []
        assert client._pending_data_size == 0
        for task in (client._reading_task, client._ping_interval_task, client._flusher_task):
            assert isinstance(task, asyncio.Task)
            assert not task.done()
        assert client._server_info["version"] == server.version()
        assert client.max_payload == client._max_payload == client._server_info["max_payload"]
        subscription = await client.subscribe("subject")
        assert client._subs[subscription._id] is subscription
    finally:
        await client.close()


async def test_connect_when_nats_pys_inside_has_changed_names_the_versions_supported(
    server: eda.EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_stream(wire: Wire) -> ByteStream:
        transport, wire._transport = wire._transport, object()
        try:
            return original(wire)
        finally:
            wire._transport = transport

    original = Wire.take_stream
    monkeypatch.setattr(Wire, "take_stream", take_stream)
    with pytest.raises(eda.NotSupported) as caught:
        await eda.connect(server.url)
    assert f"nats-py {version('nats-py')}" in str(caught.value)
    assert SUPPORTED in str(caught.value)
