"""Why an event gets no handler or is handled alone, and the exception by which our own handlers give an event back."""

from __future__ import annotations

__all__ = ["Exhausted", "GivenBack", "Suspect", "Undecodable"]


class Undecodable(Exception):
    """The verdict on a message that is not an event. Its cause says why."""


class Exhausted(Exception):
    """The verdict on an event that has used up its attempts, in processes that died before they could report it."""


class Suspect(Exception):
    """The verdict on an event that may kill the process that handles it: it is handled alone, and recorded first."""


class GivenBack(BaseException):
    """Raised by a handler of eda's own: the event was not handled, and is delivered again at once."""
