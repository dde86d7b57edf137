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
    """The verdict on an event that is recorded before it is handled, because it may kill the process.

    `delivery` is the number of the message's delivery. With `is_alone`, no other event is handled at the same time.
    `n_begun` is how often an event of a pack was begun in earlier deliveries, as far as that is on record.
    """

    def __init__(self, delivery: int, *, is_alone: bool = True) -> None:
        super().__init__()
        self.delivery = delivery
        self.is_alone = is_alone
        self.n_begun = 0


class Alone(Exception):
    """The verdict on an event that is handled alone: in a batch, no id said which event can't be decoded."""
