"""What PostgreSQL's error codes (SQLSTATE) say about a transaction."""

from __future__ import annotations

__all__ = ["is_lost_connection", "is_outage_state", "is_savepoint_gone", "note_swallowed"]

# Source: PostgreSQL's documentation, appendix A, "PostgreSQL Error Codes".
_OUTAGE_STATES = frozenset(
    (
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "40003",  # statement_completion_unknown
        "25006",  # read_only_sql_transaction: the server became a standby of another one
        "25P03",  # idle_in_transaction_session_timeout
        "25P04",  # transaction_timeout
        "55P03",  # lock_not_available
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now: the server starts, stops or recovers
        "57P05",  # idle_session_timeout
    )
)
# Connection exceptions, insufficient resources (a full disk, too many connections), and errors of the system (I/O).
_OUTAGE_CLASSES = frozenset(("08", "53", "58"))
# The session ends with these.
_LAST_STATES = frozenset(("25P03", "25P04", "57P01", "57P02", "57P05"))


def is_outage_state(state: str | None) -> bool:
    """Return whether an error with this code is the database's trouble."""
    return state is not None and (state in _OUTAGE_STATES or state[:2] in _OUTAGE_CLASSES)


def is_lost_connection(state: str | None) -> bool:
    """Return whether the connection is gone after an error with this code, so that a commit may have landed."""
    return state is not None and (state in _LAST_STATES or state[:2] == "08")


def is_savepoint_gone(state: str | None) -> bool:
    """Return whether the savepoint of a statement does not exist: no such savepoint, or no transaction."""
    return state in {"3B001", "25P01"}


def note_swallowed(error: BaseException, state: str | None) -> None:
    """Add a note to the error of a statement of eda that failed because an earlier statement of apply had failed."""
    if state == "25P02":  # in_failed_sql_transaction
        error.add_note(
            "a statement of apply failed before, and apply did not let its error rise. PostgreSQL refuses all later "
            "statements of such a transaction. Raise the error, or put the statement into a savepoint"
        )
