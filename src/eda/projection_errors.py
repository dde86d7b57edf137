"""The errors of projections, views and the outbox."""

from __future__ import annotations

from eda.errors import EdaError, printable

__all__ = ["NotApplied", "PositionInvalid", "TransactionEnded"]


class PositionInvalid(EdaError):
    """A projection's position no longer names the event up to which it has applied its stream. The projection ends.

    `projection`, `version` and `stream` say whose position it is. `reason` says what is wrong, and what the user can
    do: the stream was made again, was restored from a backup, or lost events that were not applied yet.
    """

    def __init__(self, projection: str, version: int, stream: str, reason: str) -> None:
        super().__init__()
        self.projection = projection
        self.version = version
        self.stream = stream
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"projection {self.projection!r} version {self.version} can't go on with stream {self.stream!r}: "
            f"{printable(self.reason)}"
        )


class NotApplied(EdaError):
    """An event that `wait_for` waits for was not applied: it failed, and the projection passed it.

    `projection`, `version`, `stream`, `sequence` and `index` say which event of whose; `index` is the event's place in
    a pack, and 0 for an event on its own. `reason` is the text of the error with which applying the event failed.
    """

    def __init__(
        self, projection: str, version: int, stream: str, sequence: int, reason: str, index: int = 0
    ) -> None:  # fmt: skip
        super().__init__()
        self.projection = projection
        self.version = version
        self.stream = stream
        self.sequence = sequence
        self.index = index
        self.reason = reason

    def __str__(self) -> str:
        index = f", index {self.index}," if self.index else ""
        return (
            f"projection {self.projection!r} version {self.version} did not apply the event at sequence "
            f"{self.sequence}{index} of stream {self.stream!r}: {printable(self.reason)}"
        )


class TransactionEnded(EdaError):
    """The function `apply` of a projection has ended its transaction: it committed it or rolled it back.

    The rows may be stored without the position that belongs to them, so the projection ends.
    """

    def __init__(self, projection: str, version: int) -> None:
        super().__init__()
        self.projection = projection
        self.version = version

    def __str__(self) -> str:
        return (
            f"apply of projection {self.projection!r} version {self.version} has committed or rolled back its "
            "transaction. The projection commits by itself, together with its position: remove the commit from apply, "
            "and check the rows of the last batch, which may be applied twice"
        )
