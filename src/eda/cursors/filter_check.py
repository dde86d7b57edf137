"""The filter that a cursor's position belongs to: who may take the key with another one."""

from __future__ import annotations

import logging
from typing import Literal

from eda.cursors.value import Value
from eda.errors import ConfigError
from eda.jetstream.subjects import covers, shown_filter

__all__ = ["CursorFilter", "OnFilterChange"]

OnFilterChange = Literal["refuse", "from_here"]


class CursorFilter:
    """The filter of one member, `mine`, beside the one in the key of subscription `name` to `stream`.

    A member with a wider filter may take the key when it was told to ("from_here"). A member with a narrower filter
    never does so in place of a wider one: it would pass over events that the wider one waits for.
    """

    def __init__(
        self, logger: logging.Logger, stream: str, name: str, mine: list[str], on_change: OnFilterChange = "refuse"
    ) -> None:
        self._logger = logger
        self._where = f"subscription {name!r} of stream {stream!r}"
        self.mine = mine
        self._on_change = on_change
        self._is_told = False  # that it stands by for its filter

    def check(self, value: Value) -> None:
        """Raise ConfigError when this member may not open beside what is in the key."""
        if set(value.filter) == set(self.mine):
            return
        if self._on_change == "refuse":
            raise ConfigError(
                f"{self._where} exists and differs: it filters {shown_filter(value.filter)}, the options ask for "
                f"{shown_filter(self.mine)}. Use another name, reset=True to forget its position, or "
                "on_filter_change='from_here' to change the filter from the kept position onward.",
                argument="name",
            )
        if value.holder and not covers(self.mine, value.filter):
            raise ConfigError(
                f"{self._where}: it filters {shown_filter(value.filter)} for members that are attached; the narrower "
                f"filter {shown_filter(self.mine)} would withhold their events. Close them first.",
                argument="on_filter_change",
            )

    def may_take_over(self, value: Value) -> bool:
        """Whether a member that stands by may take the key; says in the log once when it may not."""
        is_same = set(value.filter) == set(self.mine)
        if is_same or (self._on_change == "from_here" and covers(self.mine, value.filter)):
            return True
        if not self._is_told:
            self._is_told = True
            self._logger.warning(
                "%s: this member stands by and takes nothing over: another member changed the filter to %s, and this "
                "member handles %s only",
                self._where, shown_filter(value.filter), shown_filter(self.mine),
            )  # fmt: skip
        return False

    def tell_change(self, old: Value) -> None:
        """Say in the log that the key was taken with another filter."""
        if set(old.filter) != set(self.mine):
            self._logger.warning(
                "%s: its filter was %s and is %s now, from its position onward",
                self._where, shown_filter(old.filter), shown_filter(self.mine),
            )  # fmt: skip
