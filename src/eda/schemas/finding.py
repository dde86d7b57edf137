"""What a comparison finds: a gap between a writer and a reader, and the finding that tells a user of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

__all__ = ["NEW_READERS", "NOBODY", "OLD_READERS", "Finding", "Gap"]

NEW_READERS = "new readers of stored events"
OLD_READERS = "old readers of new events"
NOBODY = "nobody"


class Gap(NamedTuple):
    """A payload that a writer may write and a reader does not read.

    `path` leads to the value in the payload, such as `.lines[].price`. `change` says what is wrong, with `{writer}` for
    an event of the writer and `{reader}` for the reader. `kind` selects the advice.
    """

    path: str
    kind: str
    change: str


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that the comparison of two documents has found."""

    type: str
    path: str
    """where in the payload, such as `$.lines[].price`; "" if the finding is about the type itself"""
    change: str
    breaks: str
    """NEW_READERS, OLD_READERS, or NOBODY: then the finding is only a notice"""
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    def __str__(self) -> str:
        where = f"{self.type} {self.path}".strip()
        if self.breaks == NOBODY:
            return f"{where}: {self.change}. {self.advice}."
        return f"{where}: {self.change}. This breaks {self.breaks}. {self.advice}."
