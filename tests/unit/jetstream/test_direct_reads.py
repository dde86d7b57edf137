"""eda.jetstream._direct_reads: the server's headers in the answers to direct gets."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from eda.jetstream._direct_reads import answer_headers

SERVER = (
    b"Nats-Stream: s\r\nNats-Subject: s.t.a\r\nNats-Sequence: 7\r\nNats-Time-Stamp: 2026-01-02T03:04:05.25Z\r\n\r\n"
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NS = ((datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC) - EPOCH).days * 86_400 + 3 * 3600 + 4 * 60 + 5) * 10**9 + 250_000_000
FOUND = (b"s", b"s.t.a", 7, NS)


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"Nats-Msg-Id: x\r\n",
        b"Nats-Stream: forged\r\nNats-Subject: forged\r\nNats-Sequence: 1\r\nNats-Time-Stamp: 1970-01-01T00:00:00Z\r\n",
        b"Nats-Sequence: junk\r\nNats-Time-Stamp: junk\r\nNats-Stream:\r\nNats-: \r\n\r\n:\r\n",
        b"Nats-Sequence: 9\nNats-Sequence: 8\r" + b"x" * 5000 + b"\r\n",
    ],
)
def test_answer_headers_when_the_message_has_headers_too_returns_those_of_the_server(before: bytes) -> None:
    assert answer_headers(b"NATS/1.0\r\n" + before + SERVER) == FOUND
    batch = b"Nats-Num-Pending: 3\r\nNats-Last-Sequence: 6\r\n\r\n"
    assert answer_headers(b"NATS/1.0\r\n" + before + SERVER.removesuffix(b"\r\n") + batch) == FOUND


@pytest.mark.parametrize("at", range(len(SERVER) + 10))
def test_answer_headers_when_they_are_cut_returns_nothing(at: int) -> None:
    assert answer_headers((b"NATS/1.0\r\n" + SERVER)[:at]) is None
    assert answer_headers((b"NATS/1.0\r\n" + SERVER)[:at] + b"\r\n\r\n") is None or at > len(SERVER)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"NATS/1.0\r\n", b"NATS/1.0 200\r\n"),
        (b"Nats-Stream: ", b"Nats-Strear: "),
        (b"Nats-Subject: ", b"Nats-Subject:"),
        (b"Sequence: 7", b"Sequence: 0"),
        (b"Sequence: 7", b"Sequence: -7"),
        (b"Sequence: 7", b"Sequence: 7 "),
        (b"Sequence: 7", b"Sequence: 7\r\nNats-Sequence: "),
        (b"Sequence: 7", b"Sequence: " + b"9" * 19),
        (b"2026", b"1969"),
        (b"2026", b"2262"),
        (b"2026-01", b"2026-13"),
        (b"2026-01", b"2026-00"),
        (b"02T", b"00T"),
        (b"02T", b"02 "),
        (b"T03", b"T24"),
        (b":04:", b":60:"),
        (b":05.", b":60."),
        (b".25Z", b".Z"),
        (b".25Z", b".1234567890Z"),
        (b".25Z", b".25"),
        (b".25Z", b".25+00:00"),
        (b".25Z", b",25Z"),
    ],
)
def test_answer_headers_when_one_is_malformed_returns_nothing(old: bytes, new: bytes) -> None:
    headers = (b"NATS/1.0\r\n" + SERVER).replace(old, new)
    assert headers != b"NATS/1.0\r\n" + SERVER
    assert answer_headers(headers) is None


@pytest.mark.parametrize(
    "time",
    [
        "1970-01-01T00:00:00Z",
        "1999-12-31T23:59:59.9Z",
        "2000-02-29T12:00:00.000001Z",
        "2024-02-29T00:00:00.123456Z",
        "2024-03-01T00:00:00Z",
        "2100-02-28T23:59:59Z",
        "2100-03-01T00:00:00Z",
        "2261-12-31T23:59:59.999999Z",
    ],
)
def test_answer_headers_when_the_time_is_odd_returns_the_nanoseconds(time: str) -> None:
    found = answer_headers(b"NATS/1.0\r\n" + SERVER.replace(b"2026-01-02T03:04:05.25Z", time.encode()))
    assert found is not None
    since = datetime.fromisoformat(time) - EPOCH
    assert found[3] == ((since.days * 86_400 + since.seconds) * 10**6 + since.microseconds) * 1000
    nine = answer_headers(b"NATS/1.0\r\n" + SERVER.replace(b".25Z", b".123456789Z"))
    assert nine is not None
    assert nine[3] % 10**9 == 123_456_789
