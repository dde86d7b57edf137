"""The checker of the event store's fault tests reports each kind of broken promise."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from support.faults.nursery import Nursery
from support.store.accounts import Account, after, chain_of
from support.store.attempts import UNKNOWN, Attempt, Request
from support.store.contents import TOMBSTONE, Message
from support.store.evidence import Evidence, unsettled
from support.store.members import Members


def message(sequence: int, version: int, command: str = "", i: int = 1, k: int = 1, **data: Any) -> Message:
    command = command or f"c{version}"
    given = {"c": command, "i": i, "k": k, "x": 1} | data
    return Message(sequence, f"{command}.h.{i}", "moved", "a", version, given)


def request(number: int, how: str = "execute", **more: Any) -> Request:
    return Request(how, "a", f"c{number}", **more)


def done(number: int, messages: list[Message], **more: Any) -> Attempt:
    said = {
        "version": messages[-1].version if messages else 0,
        "ids": [each.id for each in messages],
        "sequences": [each.sequence for each in messages],
    }
    return Attempt(request(number, **more), number * 10, "m", number * 10 + 5, "done", said)


def events(messages: list[Message]) -> dict[str, Any]:
    first = messages[0].version if messages else 0
    return {"first": first, "n": len(messages), "contiguous": True, "chain": chain_of(each.id for each in messages)}


def loaded(messages: list[Message], begin_ns: int = 100) -> Attempt:
    state = Account()
    for each in messages:
        state = after(state, each.id, each.data)
    said = {
        "found": len(messages),
        "sequence": messages[-1].sequence if messages else 0,
        "state": vars(state),
        "events": events(messages),
    }
    return Attempt(request(9, "load"), begin_ns, "m", begin_ns + 5, "done", said)


def conflict(
    number: int, expected: int | str, found: list[Message], how: str = "append", begin_ns: int = 100
) -> Attempt:
    begin = expected if isinstance(expected, int) else 0
    said = {"expected": expected, "actual": len(found), "events": events(found[begin:])}
    asked = request(number, how, expected=expected if how == "append" else "")
    return Attempt(asked, begin_ns, "m", begin_ns + 5, "conflict", said)


# A single event, then a command of two, then another single event.
HISTORY = [message(1, 1, seen=0), message(4, 2, "c2", 1, 2, seen=1), message(5, 3, "c2", 2, 2), message(8, 4, "c4")]
ATTEMPTS = [done(1, HISTORY[:1]), done(2, HISTORY[1:3]), done(4, HISTORY[3:])]
WHOLE = HISTORY, ATTEMPTS


def faults(contents: list[Message], attempts: list[Attempt], *, has_batches: bool = True) -> str:
    evidence = Evidence(contents, attempts, has_batches=has_batches)
    evidence.examine(settled=True)
    return "\n".join(evidence.faults)


def test_checker_when_all_holds_reports_nothing() -> None:
    more = [
        loaded(HISTORY),
        loaded(HISTORY[:1], begin_ns=20),
        conflict(5, 1, HISTORY),
        conflict(6, "new", HISTORY),
        conflict(7, 3, HISTORY, "execute"),
        Attempt(request(8, amount=-5), 100, "m", 101, "refused"),
        Attempt(request(8, kind="refuse"), 100, "m", 101, "refused"),
        # Its process was killed. Another one was told later what had become of the command.
        Attempt(request(4), 30),
        Attempt(request(9), 30),
        replace(
            ATTEMPTS[2], begin_ns=200, end_ns=201, said=ATTEMPTS[2].said | {"state": loaded(HISTORY).said["state"]}
        ),
        replace(done(9, [], kind="nothing"), said={"version": 4, "ids": [], "sequences": []}),
    ]
    assert faults(HISTORY, ATTEMPTS + more) == ""
    assert faults([], [loaded([]), conflict(1, "exists", [])]) == ""


@pytest.mark.parametrize(
    ("contents", "attempts", "expected"),
    [
        pytest.param([HISTORY[0], *HISTORY[3:]], ATTEMPTS, "has version 4 where 2 must be", id="gap"),
        pytest.param(
            [*HISTORY, message(9, 4, "c5")],
            [*ATTEMPTS, done(5, [message(9, 4, "c5")])],
            "version 4 where 5",
            id="repeat",
        ),
        pytest.param([*HISTORY, message(9, 5, "c4")], ATTEMPTS, "applied twice", id="applied-twice"),
        pytest.param([*HISTORY, message(9, 5, "c4")], ATTEMPTS, "stored more than once", id="id-twice"),
        pytest.param([*HISTORY, message(9, 5, "c5")], ATTEMPTS, "nobody asked", id="foreign"),
        pytest.param(HISTORY[:3], ATTEMPTS, "acknowledged, and not stored", id="lost"),
        pytest.param([HISTORY[0], HISTORY[1]], ATTEMPTS[:1], "not the whole command", id="part"),
        pytest.param(
            [HISTORY[0], HISTORY[1], replace(HISTORY[2], sequence=7)], ATTEMPTS[:2], "not together", id="apart"
        ),
        pytest.param(
            [*HISTORY, message(9, 5, seen=3)], [*ATTEMPTS, done(5, [message(9, 5)])], "decided on version 3", id="stale"
        ),
        pytest.param(
            [*HISTORY, message(9, 5, x=-9)], [*ATTEMPTS, done(5, [message(9, 5)])], "overdrawn", id="overdrawn"
        ),
        pytest.param(
            [replace(HISTORY[0], id="x")], [done(1, [replace(HISTORY[0], id="x")])], "without its command", id="id"
        ),
        pytest.param(
            HISTORY,
            [*ATTEMPTS[:2], Attempt(request(4), 90, "m", 91, "refused")],
            "reported as {'refused'}",
            id="refused",
        ),
        pytest.param(
            HISTORY, [*ATTEMPTS, Attempt(request(4), 90, "m", 91, "refused")], "and now reported as refused", id="later"
        ),
        pytest.param(
            HISTORY, [*ATTEMPTS, Attempt(request(4), 0, "m", 1, "config")], "ConfigError, and stored", id="config"
        ),
        pytest.param(
            HISTORY,
            [*ATTEMPTS, Attempt(request(8, amount=-4), 90, "m", 91, "refused")],
            "out of date",
            id="old-refusal",
        ),
        pytest.param(HISTORY, [*ATTEMPTS, done(9, [], kind="nothing")], "told of version 0 when 4", id="old-nothing"),
        pytest.param(HISTORY, [*ATTEMPTS, conflict(4, 3, HISTORY)], "conflict, and stored", id="conflict-of-stored"),
        pytest.param(HISTORY, [*ATTEMPTS, conflict(5, 4, HISTORY)], "not a conflict", id="no-conflict"),
        pytest.param(HISTORY, [*ATTEMPTS, conflict(5, "exists", HISTORY)], "not a conflict", id="exists"),
        pytest.param(HISTORY, [*ATTEMPTS, conflict(5, "new", [])], "not a conflict", id="new"),
        pytest.param(HISTORY, [*ATTEMPTS, conflict(5, 1, HISTORY[:3])], "told of version 3 when 4", id="old-conflict"),
        pytest.param(HISTORY, [*ATTEMPTS, done(1, HISTORY[1:2])], "another result", id="another-result"),
        pytest.param(HISTORY, [*ATTEMPTS, done(5, [])], "another result|not stored", id="nothing-done"),
        pytest.param(HISTORY, [*ATTEMPTS, done(5, HISTORY[3:], kind="nothing")], "never decided on", id="nothing"),
        pytest.param(HISTORY, [done(1, HISTORY[:1], kind="refuse"), *ATTEMPTS[1:]], "kind 'refuse' stored", id="kind"),
        pytest.param(HISTORY, [*ATTEMPTS, Attempt(request(5), 90)], "nobody found out", id="unsettled"),
        pytest.param(HISTORY, [*ATTEMPTS, loaded(HISTORY[:3])], "told of version 3 when 4", id="old-load"),
        pytest.param(HISTORY, [*ATTEMPTS, loaded([*HISTORY, message(9, 5)])], "that is not there", id="load-beyond"),
        pytest.param(
            HISTORY, [*ATTEMPTS, Attempt(request(5), 90, "m", 91, "incomplete")], "incomplete:", id="incomplete"
        ),
        pytest.param(HISTORY, [*ATTEMPTS, Attempt(request(5), 90, "m", 91, "error")], "error:", id="error"),
        pytest.param(
            HISTORY,
            [*ATTEMPTS, Attempt(request(5, n=2), 90, "m", 91, "unsupported")],
            "reported as not supported",
            id="unsupported",
        ),
        pytest.param(
            HISTORY, [*ATTEMPTS, Attempt(request(5), 90, "m", 91, "forgotten")], "nobody has forgotten", id="forgotten"
        ),
    ],
)
def test_checker_when_something_is_wrong_reports_it(
    contents: list[Message], attempts: list[Attempt], expected: str
) -> None:
    found = faults(contents, attempts)
    assert any(each in found for each in expected.split("|")), found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"state": {"version": 4, "total": 5, "chain": ""}}, "not the fold"),
        ({"state": vars(Account())}, "older than its version"),
        ({"sequence": 7}, "wrong position"),
        ({"events": events(HISTORY[:3])}, "do not end with the version"),
        ({"events": events(HISTORY[1:]) | {"first": 1}}, "not those of the contents"),
        ({"events": events(HISTORY) | {"contiguous": False}}, "not those of the contents"),
    ],
)
def test_checker_when_a_load_is_wrong_reports_it(change: dict[str, Any], expected: str) -> None:
    load = loaded(HISTORY)
    assert expected in faults(HISTORY, [*ATTEMPTS, replace(load, said=load.said | change)])


def test_checker_when_a_conflict_lacks_events_reports_it() -> None:
    found = conflict(5, 1, HISTORY)
    found.said["events"] = events(HISTORY[2:])
    assert "lacks events" in faults(HISTORY, [*ATTEMPTS, found])


def test_checker_when_there_are_no_batches_wants_several_events_to_be_refused() -> None:
    refused = Attempt(request(5, n=2), 90, "m", 91, "unsupported")
    assert faults(HISTORY[:1], [ATTEMPTS[0], refused], has_batches=False) == ""
    assert "reported as not supported" in faults(
        HISTORY[:1], [ATTEMPTS[0], Attempt(request(5), 90, "m", 91, "unsupported")], has_batches=False
    )
    assert "several events of one append are stored" in faults(HISTORY, ATTEMPTS, has_batches=False)
    assert "reported as {'unsupported'}" in faults([*HISTORY, message(9, 5)], [*ATTEMPTS, refused], has_batches=False)


def test_members_when_a_fault_strikes_count_the_requests_that_were_under_way(tmp_path: Path) -> None:
    members = Members(Nursery("support.store.process"), tmp_path)
    note = members.journal.note

    def begin(member: str, number: int, how: str = "append") -> None:
        note(member, "begin", attempt=number, request=asdict(request(number, how)))

    begin("a", 1)
    members.harm("freeze", "b")  # not the member that asks
    members.harm("freeze", "a")
    assert members.busy() == {"a"}
    note("a", "end", attempt=1, outcome="done", said={})
    members.harm("freeze", "a")  # too late
    begin("a", 2, "load")  # changes nothing
    begin("b", 1)
    assert members.busy() == {"b"}
    members.harm("server")
    members.journal.close()
    assert {kind: members.n_struck(kind) for kind in ("freeze", "server", "kill")} == {
        "freeze": 1,
        "server": 1,
        "kill": 0,
    }


TOMB = Message(9, "t", TOMBSTONE, "a", 5)
FORGET = Attempt(request(9, "forget"), 60, "m", 65, "done")
GONE = Attempt(request(8), 100, "m", 101, "forgotten")


def test_checker_when_an_aggregate_is_forgotten_wants_only_its_tombstone() -> None:
    assert faults([TOMB], [*ATTEMPTS, FORGET, GONE]) == ""
    assert "more than its tombstone" in faults([*HISTORY, TOMB], [*ATTEMPTS, FORGET])
    assert "more than its tombstone" in faults([TOMB, message(10, 6)], [*ATTEMPTS, FORGET])
    assert "has data" in faults([replace(TOMB, data={"x": 1})], [FORGET])
    assert "had been forgotten" in faults([TOMB], [*ATTEMPTS, FORGET, loaded([])])
    assert faults([TOMB], [*ATTEMPTS, FORGET, replace(ATTEMPTS[2], begin_ns=100, end_ns=101)]) == ""
    late = replace(done(9, [message(10, 6)]), begin_ns=100, end_ns=101)
    assert "had been forgotten" in faults([TOMB], [*ATTEMPTS, FORGET, late])
    other = [replace(HISTORY[3], id="c5.h.1")]
    assert "told to be another event" in faults([TOMB], [*ATTEMPTS, done(5, other)])


def test_unsettled_when_an_attempt_has_an_outcome_leaves_its_command_out() -> None:
    attempts = [Attempt(request(1), 1), Attempt(request(2), 1), done(1, HISTORY[:1]), Attempt(request(2), 3)]
    assert unsettled([*attempts, Attempt(request(3, "load"), 4)]) == [request(2)]
    assert attempts[1].outcome == UNKNOWN
