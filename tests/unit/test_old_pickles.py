"""Pickles that the code made before its files moved into wings: events and errors in them can still be loaded."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import eda

# Made at commit 7359c23 of the event below, with protocols 2 and 5, and of an error that holds the event.
EVENT_2 = (
    b"\x80\x02ceda._event\n_restore_event\nq\x00(X\x03\x00\x00\x00e-1q\x01X\x10\x00\x00\x00subject-enrolledq\x02X\x02\x00\x00\x00v2q\x03X\x03\x00\x00\x00c"
    b"-1q\x04X\x03\x00\x00\x00labq\x05X\t\x00\x00\x00subject-7q\x06}q\x07X\x01\x00\x00\x00kq\x08X\x01\x00\x00\x00vq\tsceda._data\n_restore_data\nq\nX\x04\x00"
    b'\x00\x00jsonq\x0bc_codecs\nencode\nq\x0cX\x0b\x00\x00\x00{"arm":"B"}q\rX\x06\x00\x00\x00latin1q\x0e\x86q\x0fRq\x10\x86q\x11Rq\x12N\x8a\x08\x00\x00*6\xfe\x9c\x97\x17'
    b"K\x00K\x00K\x00K\x00c__builtin__\nbytes\nq\x13)Rq\x14h\x14tq\x15Rq\x16."
)
EVENT_5 = (
    b"\x80\x05\x95\xb6\x00\x00\x00\x00\x00\x00\x00\x8c\neda._event\x94\x8c\x0e_restore_event\x94\x93\x94(\x8c\x03e-1\x94\x8c\x10subject-enrolled\x94\x8c\x02v2\x94\x8c\x03c-1\x94"
    b'\x8c\x03lab\x94\x8c\tsubject-7\x94}\x94\x8c\x01k\x94\x8c\x01v\x94s\x8c\teda._data\x94\x8c\r_restore_data\x94\x93\x94\x8c\x04json\x94C\x0b{"arm":"B"}\x94'
    b"\x86\x94R\x94N\x8a\x08\x00\x00*6\xfe\x9c\x97\x17K\x00K\x00K\x00K\x00C\x00\x94h\x13t\x94R\x94."
)
ERROR_5 = (
    b"\x80\x05\x95%\x01\x00\x00\x00\x00\x00\x00\x8c\x0ceda.handlers\x94\x8c\x0ePartialFailure\x94\x93\x94}\x94\x8c\neda._event\x94\x8c\x0e_restore_event\x94\x93\x94("
    b"\x8c\x03e-1\x94\x8c\x10subject-enrolled\x94\x8c\x02v2\x94\x8c\x03c-1\x94\x8c\x03lab\x94\x8c\tsubject-7\x94}\x94\x8c\x01k\x94\x8c\x01v\x94s\x8c\teda._data\x94\x8c\r_"
    b'restore_data\x94\x93\x94\x8c\x04json\x94C\x0b{"arm":"B"}\x94\x86\x94R\x94N\x8a\x08\x00\x00*6\xfe\x9c\x97\x17K\x00K\x00K\x00K\x00C\x00\x94h\x17t\x94R\x94\x8c\neda.errors'
    b"\x94\x8c\x08_rebuild\x94\x93\x94(h\x1a\x8c\x0eStreamNotFound\x94\x93\x94)}\x94\x8c\x06stream\x94\x8c\x01s\x94sNt\x94R\x94s\x85\x94R\x94."
)

EVENT = eda.Event(
    id="e-1",
    type="subject-enrolled",
    schema="v2",
    cause="c-1",
    client="lab",
    aggregate="subject-7",
    data=eda.JSON({"arm": "B"}),
    meta={"k": "v"},
    time=1_700_000_000_000_000_000,
)


@pytest.mark.parametrize("pickled", [EVENT_2, EVENT_5], ids=["protocol 2", "protocol 5"])
def test_event_when_pickled_before_the_move_is_loaded(pickled: bytes) -> None:
    event = pickle.loads(pickled)
    assert type(event) is eda.Event
    assert event.to_dict() == EVENT.to_dict()
    assert event == EVENT
    assert event.data.decode() == {"arm": "B"}


def test_error_when_pickled_before_the_move_is_loaded() -> None:
    error = pickle.loads(ERROR_5)
    assert type(error) is eda.PartialFailure
    ((event, reason),) = error.failures.items()
    assert event == EVENT
    assert type(reason) is eda.StreamNotFound
    assert reason.stream == "s"


def test_event_when_loaded_by_a_program_that_does_not_import_eda_is_there() -> None:
    code = f"import pickle; event = pickle.loads({EVENT_5!r}); print(type(event), event.id)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (shown.stdout, shown.stderr) == ("<class 'eda._event.Event'> e-1\n", "")
