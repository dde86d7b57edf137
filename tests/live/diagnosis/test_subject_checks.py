"""eda.diagnosis: subjects of a stream, and other streams that listen to them."""

from __future__ import annotations

import pytest

import eda
from helpers import Admin
from support.diagnosis.settings import create, only, severities


@pytest.mark.parametrize(
    ("subjects", "check", "severity", "told"),
    [
        (["elsewhere.>"], "subjects", "problem", "eda can't publish to it; it listens to elsewhere.>"),
        (["{}.made.*"], "subjects", "warning", "some types and aggregates only"),
        (["{}.>", "elsewhere.*"], "foreign_subjects", "note", "also stores what is published to elsewhere.*"),
    ],
)
async def test_diagnose_when_the_subjects_differ_says_what_follows(
    admin: Admin, conn: eda.Conn, stream: str, subjects: list[str], check: str, severity: str, told: str
) -> None:
    await create(admin, stream, subjects=[each.format(stream) for each in subjects])
    found = only(await conn.diagnose([stream]), check)
    assert (found.severity, found.stream) == (severity, stream)
    assert told in found.message


async def test_diagnose_when_another_stream_listens_to_its_subjects_names_it(
    admin: Admin, conn: eda.Conn, stream: str
) -> None:
    other = f"{stream}-other"
    await create(admin, stream, subjects=[f"{stream}.made.*"])
    await admin.api(f"STREAM.CREATE.{other}", {"name": other, "subjects": [f"{stream}.paid.*", "unrelated.x"]})
    try:
        found = only(await conn.diagnose([stream]), "subject_overlap")
        assert found.severity == "problem"
        assert found.message == (
            f"The stream {other} listens to {stream}.paid.*: it stores events that are published to {stream}."
        )
    finally:
        await admin.js.delete_stream(other)


async def test_diagnose_when_the_name_is_none_of_eda_examines_it_only_if_it_is_named(
    admin: Admin, conn: eda.Conn, stream: str
) -> None:
    await create(admin, stream, subjects=[f"{stream}-elsewhere.>"])
    findings = await conn.diagnose()
    assert stream not in {each.stream for each in findings}
    assert only(findings, "other_streams").severity == "ok"
    assert severities(await conn.diagnose([stream]))["subjects"] == "problem"


async def test_diagnose_when_there_is_no_such_stream_raises(conn: eda.Conn, stream: str) -> None:
    with pytest.raises(eda.StreamNotFound, match=stream):
        await conn.diagnose([stream])


async def test_diagnose_when_the_names_are_no_list_of_names_refuses(conn: eda.Conn) -> None:
    with pytest.raises(eda.ConfigError, match=r"write \['orders'\]"):
        await conn.diagnose("orders")
    with pytest.raises(eda.ConfigError, match="stream must be"):
        await conn.diagnose(["a.b"])
