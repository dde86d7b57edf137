"""eda.log: nothing that a peer wrote can begin a line of its own, in any line of the package."""

from __future__ import annotations

import ast
import logging
from pathlib import Path

import pytest

import eda
from eda.errors import printable
from eda.log import Seldom, problems_of, safe_logger, with_fields
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


def test_fields_when_a_logger_is_made_from_another_are_those_of_both(logged: Logged) -> None:
    logger = with_fields(safe_logger(logging.getLogger("eda"), eda_x0="a"), eda_stream="s")
    with_fields(logger, eda_subscription=EVIL).info("one", extra={"eda_x": 1})
    logger.info("two")
    one, two = (vars(record) for record in logged.records)
    assert (one["eda_x0"], one["eda_stream"], one["eda_x"]) == ("a", "s", 1)
    assert one["eda_subscription"] == printable(EVIL)
    assert two["eda_stream"] == "s"
    assert "eda_subscription" not in two
    assert Path(logged.records[0].pathname).name == "test_log.py"


def test_fields_when_a_call_has_the_same_field_are_those_of_the_call(logged: Logged) -> None:
    with_fields(logging.getLogger("eda"), eda_stream="s").info("one", extra={"eda_stream": "t"})
    assert vars(logged.records[0])["eda_stream"] == "t"


def test_problems_when_warnings_and_errors_are_logged_are_kept_with_their_fields(logged: Logged) -> None:
    logged.expect("two")
    root = safe_logger(logging.getLogger("eda"))
    logger = with_fields(root, eda_stream="s")
    logger.info("none")
    logger.warning("one %s", EVIL)
    logger.error("two", exc_info=ValueError("why"), extra={"eda_subscription": "me"})
    two, one = problems_of(root).latest(5)
    assert (one.level, one.text) == (logging.WARNING, printable(f"one {printable(EVIL)}"))
    assert (two.text, two.fields["eda_stream"], two.fields["eda_subscription"]) == ("two: ValueError: why", "s", "me")


def test_problems_when_the_user_logs_nothing_are_kept_all_the_same() -> None:
    silent = logging.Logger("silent", logging.CRITICAL)
    root = safe_logger(silent)
    try:
        raise ValueError("why")
    except ValueError:
        root.exception("one")
    (one,) = problems_of(root).latest(5)
    assert one.text == "one: ValueError: why"


def test_seldom_when_a_line_repeats_gives_its_level_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("eda.log.time.monotonic", lambda: now)
    seldom = Seldom()
    assert seldom.level(logging.ERROR) == logging.ERROR
    assert seldom.level(logging.ERROR) == logging.DEBUG
    assert seldom.level(logging.ERROR, "other") == logging.ERROR
    now += 59.9
    assert seldom.level(logging.ERROR) == logging.DEBUG
    now += 0.2
    assert seldom.level(logging.DEBUG) == logging.DEBUG
    assert seldom.level(logging.WARNING) == logging.WARNING


def test_seldom_when_there_are_many_keys_keeps_a_bounded_number() -> None:
    seldom = Seldom()
    for n in range(3000):
        assert seldom.level(logging.ERROR, str(n)) == logging.ERROR
    assert len(seldom._logged_at) == 1000


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
            ):
                wrong.append(f"{path.name}:{node.lineno}")
    assert wrong == []
