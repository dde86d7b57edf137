"""`eda completion`, and what a shell gets when it asks `eda` for completions."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

import eda
from eda.cli.completing import complete_names
from helpers import free_port
from support.cli.commands import run_eda

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


async def completions(*words: str, cword: int | None = None, **env: str) -> list[str]:
    """Give what `eda` tells a shell in which these words were typed; the last one is not complete."""
    asked = {"_EDA_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from eda.cli import main; main(prog_name='eda')"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **asked, **env},
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    return [line.partition(",")[2] for line in out.decode().splitlines() if line]


async def test_completion_when_a_command_is_typed_completes_commands_and_options() -> None:
    assert await completions("eda", "do") == ["doctor"]
    assert await completions("eda", "doctor", "--at") == ["--at-least"]
    assert await completions("eda", "doctor", "--at-least", "w") == ["warning"]


async def test_completion_when_a_stream_is_typed_asks_the_server(server: eda.EmbeddedServer, stream: str) -> None:
    async with eda.connect(server.url) as conn:
        await conn.streams.create(stream)
    assert stream in await completions("eda", "doctor", "str", EDA_URL=server.url)
    assert stream in await completions("eda", "store", "cat", "--addr", server.url, "str", EDA_URL="nats://127.0.0.1:1")
    assert stream not in await completions("eda", "doctor", stream, "str", EDA_URL=server.url)
    assert await completions("eda", "doctor", "nothing", EDA_URL=server.url) == []


async def test_completion_when_a_context_is_typed_knows_the_contexts(tmp_path: Path) -> None:
    directory = tmp_path / "nats" / "context"
    directory.mkdir(parents=True)
    for name in ("prod", "preview", "dev"):
        (directory / f"{name}.json").write_text("{}")
    assert await completions("eda", "context", "show", "pr", XDG_CONFIG_HOME=str(tmp_path)) == ["preview", "prod"]
    assert await completions("eda", "doctor", "--context", "d", XDG_CONFIG_HOME=str(tmp_path)) == ["dev"]


async def test_completion_when_a_subscription_is_typed_asks_for_those_of_its_stream(
    server: eda.EmbeddedServer, stream: str
) -> None:
    @click.group()
    def subs() -> None:
        pass

    @subs.command()
    @click.argument("stream")
    @click.argument("name")
    @click.option("--addr")
    def info(stream: str, name: str, addr: str | None) -> None:
        pass

    complete_names(subs)

    def complete(*arguments: str, incomplete: str) -> list[str]:
        with info.make_context("info", list(arguments), resilient_parsing=True) as ctx:
            (name,) = [each for each in info.params if each.name == "name"]
            return [item.value for item in name.shell_complete(ctx, incomplete)]

    async with eda.connect(server.url) as conn:
        await conn.streams.create(stream)
        for name in ("billing", "bookings", "mail"):
            async with conn.subscribe(stream, lambda _: None, name=name, durable=True):
                pass
    arguments = (stream, "--addr", server.url)
    assert await asyncio.to_thread(complete, *arguments, incomplete="b") == ["billing", "bookings"]
    assert await asyncio.to_thread(complete, "--addr", server.url, incomplete="b") == []


@pytest.mark.parametrize("is_silent", [True, False])
async def test_completion_when_the_server_does_not_answer_is_quiet_and_quick(is_silent: bool) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(swallow, "127.0.0.1")
    port = silent.sockets[0].getsockname()[1] if is_silent else free_port()
    try:
        began = time.monotonic()
        assert await completions("eda", "doctor", "x", EDA_URL=f"nats://127.0.0.1:{port}") == []
        assert time.monotonic() - began < 10  # of which 0.3 s are the wait; the rest is a busy machine
    finally:
        silent.close()


async def test_completion_when_the_context_is_broken_is_quiet(tmp_path: Path) -> None:
    assert await completions("eda", "doctor", "--context", "nobody", "x", XDG_CONFIG_HOME=str(tmp_path)) == []


@needs_bash
async def test_completion_when_bash_reads_the_script_completes(server: eda.EmbeddedServer, stream: str) -> None:
    async with eda.connect(server.url) as conn:
        await conn.streams.create(stream)
    code, script, err = await run_eda("completion", "bash")
    assert (code, err) == (0, "")
    typed = f"COMP_WORDS=(eda doctor {stream[:-1]}); COMP_CWORD=2"
    asked = f"{typed}; _eda_completion eda; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *("bash", "--norc", "-c", f"{script}\n{asked}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PATH": path, "EDA_URL": server.url},
    )
    async with asyncio.timeout(30):
        out, err_bytes = await process.communicate()
    assert err_bytes == b""
    assert stream in out.decode().splitlines()


@pytest.mark.parametrize(("shell", "told"), [("zsh", "#compdef eda"), ("fish", "complete --no-files --command eda")])
async def test_completion_when_the_shell_is_another_prints_its_script(shell: str, told: str) -> None:
    code, out, _ = await run_eda("completion", shell)
    assert code == 0
    assert told in out
    assert "_EDA_COMPLETE" in out
