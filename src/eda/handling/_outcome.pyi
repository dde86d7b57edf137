from typing import final

from eda._event import Event

__all__ = ["Outcomes", "attempted", "envelope_of"]

@final
class Outcomes:
    @property
    def n_handled(self) -> int: ...
    @property
    def n_failed(self) -> int: ...
    @property
    def n_misfits(self) -> int: ...
    @property
    def n_dead(self) -> int: ...
    @property
    def last_seq(self) -> int: ...
    async def fail(self, index: int, slots: list[int], error: BaseException) -> None: ...
    def give_back_waiting(self) -> int: ...
    def last_acknowledged(self) -> bytes | None: ...

def envelope_of(event: Event) -> bytes:
    """Return the envelope of a received event, as it was delivered."""

def attempted(event: Event, attempt: int) -> Event:
    """Return another object for the same received event, with this number of its attempt."""
