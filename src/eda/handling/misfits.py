"""Misfits: the events whose payload can't be decoded, found in the errors that handlers raise."""

from __future__ import annotations

from collections.abc import Sequence

from eda._event import Event
from eda.errors import CodecError, EdaError, EncodeError, UnknownEncoding
from eda.handlers import GivenBack
from eda.handling.verdicts import Alone, Misfit

__all__ = ["find_misfits"]


def find_misfits(events: Sequence[Event], error: BaseException) -> list[BaseException] | None:
    """Return what becomes of each event of a handler call that failed because payloads can't be decoded.

    `error` is what the handler raised. It is a decoding error, or a group that holds only decoding errors, and each is
    about an event of the call. For any other error, return None: the call has failed in the usual way.

    The event that an error is about is a Misfit. The others are GivenBack, because they can be handled without it. If
    several events of a batch have the id of the error, or the error and several events have none, each of these events
    is handled Alone.
    """
    problems = _decoding_errors(error)
    if not problems:
        return None
    found: list[BaseException] = [GivenBack() for _ in events]
    for problem in problems:
        numbers = [number for number, event in enumerate(events) if event.id == problem.event_id]
        if not numbers:
            return None
        is_known = len(numbers) == 1
        for number in numbers:
            if type(found[number]) is not Misfit:
                found[number] = _misfit(problem) if is_known else Alone()
    return found


def _misfit(problem: CodecError) -> Misfit:
    misfit = Misfit()
    misfit.__cause__ = problem
    return misfit


def _decoding_errors(error: BaseException) -> list[CodecError]:
    """Return the decoding errors of which `error` consists; empty if it is or holds another error."""
    if isinstance(error, ExceptionGroup):
        parts = [_decoding_errors(each) for each in error.exceptions]
        return [each for part in parts for each in part] if all(parts) else []
    is_of_encoding = isinstance(error, EncodeError) or (isinstance(error, UnknownEncoding) and error.value_type)
    if isinstance(error, CodecError) and not is_of_encoding and not _may_pass(error):
        return [error]
    return []


def _may_pass(error: BaseException) -> bool:
    """Return whether decoding may succeed later, because of an error that lies behind this one.

    Such an error is one of the system or the network, as when an encoding asks a schema registry that is down.
    """
    seen: set[int] = set()
    cause = error.__cause__
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, OSError | MemoryError) or (isinstance(cause, EdaError) and cause.retryable):
            return True
        seen.add(id(cause))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return False
