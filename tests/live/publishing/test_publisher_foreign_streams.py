"""Streams that can't take events, or never acknowledge them: refused at once, with the reason."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import eda
from eda.jetstream.subjects import overlaps
from helpers import Admin, Connect, until
from support.publishing.sent import MODES, Outcomes, numbered, stored_ids

both = pytest.mark.parametrize("mode", MODES)

FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "other-subjects": (
        {"subjects": ["other.NAME.>", "NAME.x"]},
        r"does not listen to .*<type>\.<aggregate>.*listens to other",
    ),
    "no-subjects-but-its-name": ({"subjects": ["NAME"]}, "listens to"),
    "no-ack": ({"subjects": ["NAME.>"], "no_ack": True}, "no_ack"),
    "mirror": ({"mirror": {"name": "NAME-origin"}}, "is a mirror of stream '.*-origin': publish to that one"),
    "sealed": ({"subjects": ["NAME.>"], "sealed": True}, "is sealed"),
}


@both
@pytest.mark.parametrize("kind", FOREIGN)
async def test_publisher_when_the_stream_cannot_take_events_is_refused_at_once(
    conn: eda.Conn, admin: Admin, stream: str, mode: str, kind: str
) -> None:
    settings, message = FOREIGN[kind]
    origin = f"{stream}-origin"
    try:
        if kind == "mirror":
            await admin.api(f"STREAM.CREATE.{origin}", {"name": origin})
        config = json.loads(json.dumps(settings).replace("NAME", stream))
        sealed = config.pop("sealed", False)
        await admin.api(f"STREAM.CREATE.{stream}", {"name": stream, "allow_batched": kind != "mirror", **config})
        if sealed:
            await admin.api(
                f"STREAM.UPDATE.{stream}", {"name": stream, "allow_batched": True, "sealed": True, **config}
            )
        async with asyncio.timeout(5):
            with pytest.raises(eda.ConfigError, match=message):
                async with conn.publisher(stream, mode=mode):
                    pass
        assert not conn._lifetime.publishers
    finally:
        if kind == "mirror":
            await admin.js.delete_stream(origin)


@both
async def test_publisher_when_the_stream_stops_taking_events_fails_what_is_pending(
    connect: Connect, admin: Admin, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    conn = await connect()
    outcomes = Outcomes()
    async with conn.publisher(stream, mode=mode, ack_timeout_s=0.5, **outcomes.callbacks) as pub:
        ids = await pub.send_many(numbered(10))
        await pub.flush()
        info = await admin.api(f"STREAM.INFO.{stream}")
        await admin.api(f"STREAM.UPDATE.{stream}", info["config"] | {"no_ack": True, "allow_batched": False})
        ids += await pub.send_many(numbered(10, start=10))
        await until(lambda: len(outcomes.failed) == 10, 15)
        await pub.flush()
    assert {type(error) for error in outcomes.errors.values()} <= {eda.ConfigError, eda.ServerError}
    assert len(await stored_ids(server.url, stream)) == len(set(await stored_ids(server.url, stream)))


@both
async def test_publisher_when_its_stream_is_found_gone_while_an_event_is_out_goes_on_with_later_ones(
    conn: eda.Conn, stream: str, mode: str
) -> None:
    outcomes = Outcomes()
    async with conn.publisher(stream, mode=mode, **outcomes.callbacks) as pub:
        first, second = [await pub.send(event) for event in numbered(2)]
        pump = pub._pump
        pump.machine._oldest_goes_alone = True  # as after any interruption
        pump.machine.write_waiting()
        assert pump.machine.state in ("probing", "ending")
        pump.on_gone(eda.StreamNotFound(stream))
        third = await pub.send(numbered(1, start=2)[0])
        async with asyncio.timeout(5):
            await pub.flush()
    assert list(outcomes.failed) == [first, second]
    assert list(outcomes.acknowledged) == [third]


@pytest.mark.parametrize("pattern", [">", "*.>", "s.>", "s.*.*", "*.*.*", "s.order.*", "s.*.x", "s.a.b", "s.a.>"])
def test_subjects_when_an_event_may_go_there_are_taken(pattern: str) -> None:
    assert overlaps(pattern, "s.*.*")


@pytest.mark.parametrize("pattern", ["s", "s.*", "s.a.b.*", "s.a.b.>", "t.>", "t.*.*", "*", "*.*", "S.>"])
def test_subjects_when_no_event_can_go_there_are_not_taken(pattern: str) -> None:
    assert not overlaps(pattern, "s.*.*")
