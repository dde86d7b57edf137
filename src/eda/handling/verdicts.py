"""Why an event gets no handler, or is handled alone."""

from __future__ import annotations

__all__ = ["Alone", "Exhausted", "Misfit", "Suspect", "Undecodable"]


class Undecodable(Exception):
    """The verdict on a message that is not an event. Its cause says why."""


class Misfit(Undecodable):
    """The error of an event whose payload its handler could not decode. Its cause is the error that was raised.

    Its dead letter has the same reason as that of a message that is not an event.
    """


class Exhausted(Exception):
    """The verdict on an event that has used up its attempts, in processes that died before they could report it."""


class Suspect(Exception):
    """The verdict on an event that may kill the process that handles it: it is handled alone, and recorded first."""


class Alone(Exception):
    """The verdict on an event that is handled alone: in a batch, no id said which event can't be decoded."""
