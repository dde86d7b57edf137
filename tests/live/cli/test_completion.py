"""`eda completion`, and what a shell gets when it asks `eda` for completions."""

from __future__ import annotations

import asyncio
import os
import re
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
from support.cli.terminal import Terminal

ALL_SHELLS = ("bash", "zsh", "fish")
CLI_DOC = Path(__file__).parents[3] / "docs" / "cli.md"


def real(shell: str, file: str, prompt: str) -> object:
    """Give the parameters for a shell: its file, and the command that sets its prompt. bash is always tested."""
    missing = pytest.mark.skipif(shell != "bash" and shutil.which(shell) is None, reason=f"needs {shell}")
    return pytest.param(shell, (file, prompt), id=shell, marks=missing)


CTRL_U = "\x15"  # clears the line; fish sometimes takes no notice of Ctrl-C while it completes

REAL_SHELLS = (
    real("bash", ".bashrc", "PS1='ready> '"),
    real("zsh", ".zshrc", "PS1='ready> '"),
    real("fish", ".config/fish/config.fish", "function fish_prompt; echo -n 'ready> '; end; set -g fish_greeting"),
)
PROGRAM = "from eda.cli import main; main(prog_name='eda')"


def asked_by(shell: str, words: tuple[str, ...]) -> dict[str, str]:
    """Give the variables by which a shell asks what completes the last of these words, as they are typed."""
    word = words[-1] if shell == "fish" else str(len(words) - 1)
    return {"_EDA_COMPLETE": f"{shell}_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": word}


def values_for(shell: str, answer: str) -> list[str]:
    """Give the values in an answer. What is not in the form that the shell's script reads fails."""
    lines = answer.removesuffix("\n").split("\n") if answer.strip() else []
    if shell == "zsh":
        assert len(lines) % 3 == 0
        assert set(lines[::3]) <= {"plain", "file", "dir"}
        return [
            value if about == "_" else value.replace(r"\:", ":")
            for value, about in zip(lines[1::3], lines[2::3], strict=True)
        ]
    assert all(line.startswith(("plain,", "file,", "dir,")) for line in lines)
    return [line.partition(",")[2].partition("\t")[0] for line in lines]


async def answer_of(program: str = PROGRAM, **env: str) -> str:
    """Give what `eda` prints to a shell."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **env}
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    return out.decode()


async def completions(*words: str, shell: str = "bash", program: str = PROGRAM, **env: str) -> list[str]:
    """Give what `eda` tells a shell in which these words were typed; the last one is not complete."""
    return values_for(shell, await answer_of(program, **asked_by(shell, words), **env))


def make_contexts(directory: Path, *names: str) -> dict[str, str]:
    """Make contexts of the nats command line, and give the variables with which `eda` finds them."""
    contexts = directory / "nats" / "context"
    contexts.mkdir(parents=True)
    for name in names:
        (contexts / f"{name}.json").write_text("{}")
    return {"XDG_CONFIG_HOME": str(directory)}


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
    contexts = make_contexts(tmp_path, "prod", "preview", "dev")
    assert await completions("eda", "context", "show", "pr", **contexts) == ["preview", "prod"]
    assert await completions("eda", "doctor", "--context", "d", **contexts) == ["dev"]


@pytest.mark.parametrize("shell", ALL_SHELLS)
async def test_completion_when_a_name_has_special_characters_is_told_whole(shell: str, tmp_path: Path) -> None:
    contexts = make_contexts(tmp_path, "pr:a", "pr,b", "pr c", "pr'd", "pr=e", "pr\nf", "pr\x1b[31mg", "pr\\:h")
    told = ["pr c", "pr'd", "pr,b", "pr:a", "pr=e", "pr\\:h"]  # the others can't be typed
    assert await completions("eda", "doctor", "--context", "pr", shell=shell, **contexts) == told
    assert await completions("eda", "doctor", "--context=pr", shell=shell, **contexts) == told
    assert await completions("eda", "doctor", "--context=pr:", shell=shell, **contexts) == ["pr:a"]
    assert await completions("eda", "doctor", "--context", "'pr ", shell=shell, **contexts) == ["pr c"]


@pytest.mark.parametrize("shell", ALL_SHELLS)
async def test_completion_when_any_shell_asks_answers_in_its_form(
    shell: str, server: eda.EmbeddedServer, stream: str
) -> None:
    async with eda.connect(server.url) as conn:
        await conn.streams.create(stream)
        async with conn.subscribe(stream, lambda _: None, name="billing", durable=True):
            pass
    assert await completions("eda", "do", shell=shell) == ["doctor"]
    assert await completions("eda", "doctor", "--at", shell=shell) == ["--at-least"]
    assert await completions("eda", "doctor", "--at-least=w", shell=shell) == ["warning"]
    assert await completions("eda", "pub", stream, "--file", "x", shell=shell) == ["x"]
    at = {"EDA_URL": server.url}
    assert stream in await completions("eda", "doctor", stream[:-1], shell=shell, **at)
    assert await completions("eda", "subs", "info", stream, "bi", shell=shell, **at) == ["billing"]


@pytest.mark.parametrize("shell", ALL_SHELLS)
async def test_completion_when_a_shell_asks_for_its_script_prints_it(shell: str) -> None:
    script = await answer_of(_EDA_COMPLETE=f"{shell}_source")
    assert "_EDA_COMPLETE=" + shell + "_complete eda " in script
    code, out, err = await run_eda("completion", shell)
    assert (code, out, err) == (0, script, "")


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


async def test_completion_when_the_name_server_does_not_answer_is_quiet_and_quick() -> None:
    waiting = f"import socket, time; socket.getaddrinfo = lambda *_, **__: time.sleep(60); {PROGRAM}"
    began = time.monotonic()
    assert await completions("eda", "doctor", "x", program=waiting, EDA_URL="nats://nowhere.invalid:4222") == []
    assert time.monotonic() - began < 10


def installation(shell: str) -> str:
    """Give the line of cli.md by which a user installs the completion of a shell."""
    (line,) = (
        line for line in CLI_DOC.read_text().splitlines() if re.search(rf"^(?!\|)\S.*eda completion {shell}\b", line)
    )
    return line


@pytest.mark.parametrize(("shell", "prompt"), REAL_SHELLS)
async def test_completion_when_a_user_types_in_a_real_shell_completes(
    shell: str, prompt: tuple[str, str], server: eda.EmbeddedServer, stream: str, tmp_path: Path
) -> None:
    async with eda.connect(server.url) as conn:
        await conn.streams.create(stream)
    file, command = prompt
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(command + "\n")
    (tmp_path / "a file").touch()
    env = {
        **make_contexts(tmp_path / ".config", "preview", "pr:od", "my 'own'"),
        "HOME": str(tmp_path),
        "ZDOTDIR": None,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    installed = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        installation(shell),
        env={**os.environ, **{name: value for name, value in env.items() if value is not None}},
    )
    assert await installed.wait() == 0
    run = f"import os; os.execvp({shell!r}, [{shell!r}, '-i'])"
    async with Terminal(code=run, cwd=tmp_path, env=env, columns=200) as terminal:
        for typed, completed in (
            ("eda doc", "eda doctor "),
            ("eda doctor --context=pre", "eda doctor --context=preview "),
            ("eda doctor --context pr:", "eda doctor --context pr:od "),
            ("eda doctor --context my", r"eda doctor --context my\ \'own\' "),
            ("eda pub x --file=a", r"eda pub x --file=a\ file "),
            (f"eda doctor --addr {server.url} {stream[:-1]}", f"eda doctor --addr {server.url} {stream} "),
        ):
            await terminal.shows(lambda text: text.splitlines()[-1:] == ["ready>"])
            terminal.type(f"{typed}\t#")
            await terminal.shows(lambda text, end=f"ready> {completed}#": text.splitlines()[-1] == end)
            terminal.type(CTRL_U)
