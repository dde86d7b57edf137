"""The subjects whose refusal by the server is not logged as an error, because who asks can do without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = ["Tolerated"]


class Tolerated:
    """Subjects that the server may forbid. Each stays one as long as anybody who has added it has not discarded it."""

    def __init__(self) -> None:
        self._n_of: Counter[str] = Counter()

    def add(self, subject: str) -> None:
        """Tolerate refusals of this subject."""
        self._n_of[subject] += 1

    def discard(self, subject: str) -> None:
        """Take back one call of `add`."""
        self._n_of[subject] -= 1
        if self._n_of[subject] <= 0:
            del self._n_of[subject]

    def __contains__(self, subject: str) -> bool:
        return subject in self._n_of

    @contextmanager
    def during(self, subjects: Iterable[str]) -> Iterator[None]:
        """Tolerate refusals of these subjects in this block."""
        given = list(subjects)
        for subject in given:
            self.add(subject)
        try:
            yield
        finally:
            for subject in given:
                self.discard(subject)
