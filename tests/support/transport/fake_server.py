"""A NATS server of the tests' own, which says what it is told to: for clients whose server means them no good.

    async with FakeServer() as server, eda.connect(server.url) as conn:
        server.answers["STREAM.INFO.s"] = b"nonsense"

It greets, answers PING, knows who subscribed to what, acknowledges what is published to a stream's subjects, and
answers requests to JetStream's API from `answers`. All that clients wrote is in `written`, taken apart in `commands` by
a parser that shares nothing with eda's or nats-py's and refuses whatever is not exactly the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from helpers import listening

__all__ = ["Command", "FakeServer", "parse_commands", "parse_headers", "stream_info"]

INFO: dict[str, Any] = {
    "server_id": "FAKE",
    "version": "2.14.0",
    "max_payload": 1048576,
    "headers": True,
    "jetstream": True,
    "proto": 1,
}


@dataclass(frozen=True)
class Command:
    """One command of a client: the verb, its arguments, and for a publish header block and payload."""

    verb: bytes
    arguments: tuple[bytes, ...] = ()
    headers: bytes = b""
    payload: bytes = b""

    @property
    def subject(self) -> bytes:
        return self.arguments[0]

    @property
    def reply(self) -> bytes:
        return self.arguments[1] if self.verb in (b"PUB", b"HPUB") and len(self.arguments) == 2 else b""


def parse_commands(data: bytes) -> tuple[list[Command], bytes]:
    """Take apart what a client wrote; returns the commands and the incomplete rest. ValueError: not the protocol."""
    found = []
    while (end := data.find(b"\r\n")) >= 0:
        line, after = data[:end], data[end + 2 :]
        verb, _, rest = line.partition(b" ")
        if verb in (b"PUB", b"HPUB"):
            words = rest.split(b" ")
            n_sizes = 2 if verb == b"HPUB" else 1
            sizes = words[-n_sizes:]
            if not 1 <= len(words) - n_sizes <= 2 or not all(word.isdigit() for word in sizes):
                raise ValueError(f"a publish like {line[:200]!r}")
            n_total, n_headers = int(sizes[-1]), int(sizes[0]) if verb == b"HPUB" else 0
            if len(after) < n_total + 2:
                break
            if after[n_total : n_total + 2] != b"\r\n" or n_headers > n_total:
                raise ValueError(f"a publish whose size is wrong: {line[:200]!r}")
            for word in words[:-n_sizes]:
                _check_subject(word)
            found.append(Command(verb, tuple(words[:-n_sizes]), after[:n_headers], after[n_headers:n_total]))
            after = after[n_total + 2 :]
        elif verb == b"SUB":
            subject, sid = rest.rstrip(b" ").split(b" ") if rest.count(b"  ") == 0 else rest.split(b"  ")
            if not sid.isdigit():
                raise ValueError(f"a subscription like {line[:200]!r}")
            found.append(Command(verb, (subject, sid)))
        elif verb == b"UNSUB" or (verb in (b"PING", b"PONG") and not rest):
            found.append(Command(verb, tuple(rest.split())))
        elif verb == b"CONNECT":
            json.loads(rest)
            found.append(Command(verb, (), b"", rest))
        else:
            raise ValueError(f"a command like {line[:200]!r}")
        data = after
    return found, data


def _check_subject(subject: bytes) -> None:
    if any(byte <= 32 or byte == 127 for byte in subject) or not all(subject.split(b".")):
        raise ValueError(f"a subject like {subject[:200]!r}")
    if any(token in (b"*", b">") for token in subject.split(b".")):
        raise ValueError(f"a publish to a wildcard: {subject[:200]!r}")


def parse_headers(block: bytes) -> list[tuple[bytes, bytes]]:
    """Take a header block apart. ValueError: it is none."""
    lines = block.split(b"\r\n")
    if lines[0] != b"NATS/1.0" or lines[-2:] != [b"", b""]:
        raise ValueError(f"headers like {block[:200]!r}")
    found = []
    for line in lines[1:-2]:
        name, colon, value = line.partition(b":")
        if not name or not colon or any(byte < 32 or byte == 127 for byte in line):
            raise ValueError(f"a header like {line[:200]!r}")
        found.append((name, value.strip(b" ")))
    return found


def stream_info(name: str, **config: Any) -> dict[str, Any]:
    """Give what a server says of an empty stream."""
    return {
        "config": {"name": name, "subjects": [name, f"{name}.>"], "duplicate_window": 120_000_000_000, **config},
        "state": {"messages": 0, "bytes": 0, "first_seq": 0, "last_seq": 0},
        "created": "2026-01-01T00:00:00Z",
    }


def _consumer_info(body: bytes) -> dict[str, Any]:
    config = json.loads(body)["config"]
    return {
        "name": config["name"],
        "config": config,
        "created": "2026-01-01T00:00:00Z",
        "delivered": {"consumer_seq": 0, "stream_seq": 0},
        "num_pending": 0,
    }


def _matches(pattern: bytes, subject: bytes) -> bool:
    if pattern.endswith(b".>"):
        return subject.startswith(pattern[:-1])
    return pattern == subject or (pattern.endswith(b".*") and subject.rpartition(b".")[0] == pattern[:-2])


class FakeServer:
    """`info` is what it says of itself (bytes: instead of the whole greeting). `answers`: JetStream verb > answer: an
    object for JSON, bytes as they are, None for no answer. `on_publish` takes publishes that are no API requests;
    without it they are acknowledged."""

    def __init__(self, info: dict[str, Any] | bytes | None = None) -> None:
        self.info: dict[str, Any] | bytes = INFO if info is None else info
        self.answers: dict[str, Any] = {}
        self.on_publish: Callable[[Command], None] | None = None
        self.after_pong = b""
        self.written = bytearray()
        self.commands: list[Command] = []
        self.n_accepted = 0
        self.seq = 0
        self.port = 0
        self._writers: dict[asyncio.StreamWriter, dict[bytes, bytes]] = {}  # sid by subject
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> FakeServer:
        self.port = await self._stack.enter_async_context(listening(self._serve))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def send(self, data: bytes) -> None:
        """Write bytes to all clients."""
        for writer in self._writers:
            writer.write(data)

    async def drain(self) -> None:
        for writer in list(self._writers):
            await writer.drain()

    def say(self, subject: bytes, payload: bytes, *, reply: bytes = b"", headers: bytes = b"") -> None:
        """Deliver a message to whoever subscribed to the subject."""
        for writer, subscriptions in list(self._writers.items()):
            for pattern, sid in list(subscriptions.items()):
                if _matches(pattern, subject):
                    head = b" ".join(word for word in (subject, sid, reply) if word)
                    if headers:
                        sizes = b"%d %d" % (len(headers), len(headers) + len(payload))
                        writer.write(b"HMSG %b %b\r\n%b%b\r\n" % (head, sizes, headers, payload))
                    else:
                        writer.write(b"MSG %b %d\r\n%b\r\n" % (head, len(payload), payload))

    def find(self, verb: bytes, prefix: bytes = b"") -> list[Command]:
        """Give the commands of that verb whose subject begins so."""
        return [each for each in self.commands if each.verb == verb and each.subject.startswith(prefix)]

    def sid_of(self, subject: bytes) -> bytes:
        return next(sids[subject] for sids in self._writers.values() if subject in sids)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_accepted += 1
        greeting = self.info
        writer.write(greeting if isinstance(greeting, bytes) else b"INFO %b\r\n" % json.dumps(greeting).encode())
        self._writers[writer] = {}
        rest = b""
        try:
            while data := await reader.read(1 << 20):
                self.written += data
                commands, rest = parse_commands(rest + data)
                for command in commands:
                    self.commands.append(command)
                    self._take(command, writer)
        finally:
            self._writers.pop(writer, None)

    def _take(self, command: Command, writer: asyncio.StreamWriter) -> None:
        if command.verb == b"PING":
            writer.write(b"PONG\r\n" + self.after_pong)
        elif command.verb == b"SUB":
            self._writers[writer][command.arguments[0]] = command.arguments[1]
        elif command.verb == b"UNSUB":
            sids = self._writers[writer]
            for subject in [subject for subject, sid in sids.items() if sid == command.arguments[0]]:
                del sids[subject]
        elif command.verb in (b"PUB", b"HPUB"):
            if command.subject.startswith(b"$JS.API."):
                self._answer(command)
            elif self.on_publish is not None:
                self.on_publish(command)
            elif command.reply:
                self.acknowledge(command)

    def acknowledge(self, command: Command) -> None:
        self.seq += 1
        stream = command.subject.split(b".")[0]
        self.say(command.reply, b'{"stream":"%b", "seq":%d}' % (stream, self.seq))

    def _answer(self, command: Command) -> None:
        if not command.reply:
            return
        verb = command.subject.decode().removeprefix("$JS.API.")
        known = [key for key in self.answers if verb == key or (key.endswith("*") and verb.startswith(key[:-1]))]
        if known:
            answer = self.answers[known[0]]
        elif verb == "INFO":
            answer = {"api": {"level": 2}}
        elif verb.startswith(("STREAM.INFO.", "STREAM.CREATE.")):
            answer = stream_info(verb.rpartition(".")[2])
        elif verb.startswith("CONSUMER.CREATE."):
            answer = _consumer_info(command.payload)
        elif verb.startswith("CONSUMER.MSG.NEXT."):
            return
        elif verb.startswith("STREAM.MSG.GET."):
            answer = {"error": {"code": 404, "err_code": 10037, "description": "no message found"}}
        else:
            answer = {"error": {"code": 404, "err_code": 10014, "description": "consumer not found"}}
        if answer is not None:
            self.say(command.reply, answer if isinstance(answer, bytes) else json.dumps(answer).encode())
