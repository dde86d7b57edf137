"""Publishes one event for `eda pub`, and prints its receipt."""

from __future__ import annotations

import os
import sys
from typing import Any, BinaryIO

import click
import msgspec

import eda
from eda.cli.ending import print_to_end
from eda.cli.failure import INTERRUPTED, Failure
from eda.cli.output import print_json, safe
from eda.cli.session import run_with_conn

__all__ = ["existing_stream", "run_one"]

MAX_DATA = 1 << 26  # bytes: nats-server's largest max_payload


def run_one(
    stream: str,
    data: str | None,
    file: str | None,
    encoding: str,
    fields: dict[str, Any],
    server: dict[str, Any],
    *,
    create: bool,
    as_json: bool,
) -> None:
    """Publish one event and print its receipt. Raises Failure."""
    try:
        event = eda.Event(
            data=None if encoding == "nil" else _data(encoding, _read(data, file)),
            **{name: value for name, value in fields.items() if value},
        )
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    except (eda.EdaError, OSError) as error:
        raise Failure(" ".join(str(error).split())) from None

    async def work(conn: eda.Conn) -> eda.Receipt:
        await existing_stream(conn, stream, create=create)
        return await conn.publish(stream, event)

    receipt = run_with_conn(server, work, client="eda-pub")
    print_to_end(lambda: _print(receipt, as_json=as_json), Failure)


async def existing_stream(conn: eda.Conn, stream: str, *, create: bool) -> eda.StreamInfo:
    """Return the stream. If it does not exist, create it or raise Failure."""
    try:
        return await conn.streams.info(stream)
    except eda.StreamNotFound as error:
        if not create:
            raise Failure(f"{error}; --create creates it") from None
    return await conn.streams.create(stream)


def _read(data: str | None, file: str | None) -> bytes:
    if file is not None:
        with open(file, "rb") as opened:
            return _read_all(opened, file)
    if data == "-":
        return _read_all(sys.stdin.buffer, "standard input")
    return os.fsencode(data or "")


def _read_all(opened: BinaryIO, name: str) -> bytes:
    data = opened.read(MAX_DATA + 1)
    if len(data) > MAX_DATA:
        raise Failure(f"{name} has more than {MAX_DATA:,} bytes, which no event can have")
    return data


def _data(encoding: str, data: bytes) -> eda.Data:
    """Return the data as it is given. Raises Failure if it does not have this encoding."""
    if encoding != "bytes":
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise Failure(f"the data is not UTF-8, at byte {error.start + 1}: use --encoding bytes") from None
    if encoding == "json":
        if not data.strip():
            raise Failure("the data is not JSON: it is empty. Use --encoding nil for an event without data")
        try:
            data = bytes(msgspec.json.decode(data, type=msgspec.Raw))
        except (msgspec.DecodeError, RecursionError) as error:
            raise Failure(f"the data is not JSON: {error}. Use --encoding string for a text") from None
    return eda.Data.from_encoded(encoding, data)


def _print(receipt: eda.Receipt, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "stream": receipt.stream,
                "id": receipt.id,
                "sequence": receipt.sequence,
                "index": receipt.index,
                "duplicate": receipt.duplicate,
            }
        )
        return
    had = "had already" if receipt.duplicate else "stored"
    click.echo(safe(f"{receipt.stream} {had} event {receipt.id}, sequence {receipt.sequence}"))
