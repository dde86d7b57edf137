"""eda.log: nothing that a peer wrote can begin a line of its own, in any line of the package."""

from __future__ import annotations

import ast
import logging
from pathlib import Path

import pytest

import eda
from eda.errors import printable
from eda.log import safe_logger
from helpers import Logged

EVIL = "x\nCRITICAL paid twice\r\x1b[31m\u2028\u2029\u202e\x85\x00"
SOURCE = Path(__file__).resolve().parents[2] / "src" / "eda"


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_line_when_what_it_is_given_has_control_characters_shows_them(logged: Logged, level: str) -> None:
    logged.allow("%")
    logger = safe_logger(logging.getLogger("eda"))
    logging.getLogger("eda").setLevel(logging.DEBUG)
    logged.allow(".")
    getattr(logger, level)("%s %s %r %d %.2f %s", EVIL, ValueError(EVIL), EVIL, 5, 1.5, [EVIL], extra={"eda_x": 1})
    (record,) = logged.records
    assert record.getMessage().isprintable()
    assert record.getMessage().startswith(printable(EVIL))
    assert (record.eda_x, record.funcName) == (  # type: ignore[attr-defined]
        1,
        "test_line_when_what_it_is_given_has_control_characters_shows_them",
    )


def test_exception_when_logged_has_its_traceback_and_names_its_caller(logged: Logged) -> None:
    logged.expect("failed for x")
    logger = safe_logger(logging.getLogger("eda"))
    try:
        raise ValueError("why")
    except ValueError as error:
        logger.exception("failed for %s", EVIL)
        logger.error("failed for %s", EVIL, exc_info=error)
    assert [record.exc_info[0] for record in logged.records if record.exc_info] == [ValueError, ValueError]
    assert {Path(record.pathname).name for record in logged.records} == {"test_log.py"}


@pytest.mark.parametrize(
    "error",
    [
        eda.DecodeError(EVIL, EVIL, event_id=EVIL),
        eda.EncodeError(EVIL, "int", EVIL, event_id=EVIL),
        eda.UnknownEncoding(EVIL, event_id=EVIL),
        eda.Timeout("handler", 1.0, event_id=EVIL),
        eda.ServerError(500, 0, EVIL),
        eda.StreamNotFound(EVIL),
        eda.ConsumerDeleted(EVIL, EVIL),
        eda.PartialFailure({eda.Event(id="a"): ValueError("x")}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_when_a_peer_wrote_what_is_in_it_is_one_line(error: Exception) -> None:
    assert str(error).isprintable()


@pytest.mark.skipif(not SOURCE.is_dir(), reason="tests of the wheel have no sources")
def test_loggers_when_the_sources_are_read_get_their_texts_as_arguments() -> None:
    """A text that is formatted into the message beforehand would pass by the logger that makes it safe."""
    wrong = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("debug", "info", "warning", "error", "critical", "exception")
                and "logger" in ast.unparse(node.func.value)
                and node.args
                and isinstance(node.args[0], ast.JoinedStr | ast.BinOp | ast.Call)
                and path.name != "failure_log.py"  # begins with one of its own constants
            ):
                wrong.append(f"{path.name}:{node.lineno}")
    assert wrong == []
