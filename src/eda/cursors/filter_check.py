"""Compares a member's filter with the filter in the cursor, and says whether the member may open or take over."""

from __future__ import annotations

import logging
from typing import Literal

from eda.cursors.value import CursorValue
from eda.errors import ConfigError
from eda.jetstream.subjects import covers, shown_filter
from eda.log import with_fields

__all__ = ["FilterCheck", "OnFilterChange"]

OnFilterChange = Literal["refuse", "from_here"]


class FilterCheck:
    """The filter of one member, `own`, to be compared with the one in the cursor of subscription `name` to `stream`.

    A member with a wider filter may take the cursor if its options allow that ("from_here"). A member never takes
    over a cursor whose filter is wider than its own: the events that only the wider filter matches would be skipped.
    """

    def __init__(
        self, logger: logging.Logger, stream: str, name: str, own: list[str], on_change: OnFilterChange = "refuse"
    ) -> None:
        self._logger = with_fields(logger, eda_stream=stream, eda_subscription=name)
        self._subscription = f"subscription {name!r} of stream {stream!r}"
        self.own = own
        self._on_change = on_change
        self._is_logged = False  # that this member stands by because of its filter

    def check(self, value: CursorValue) -> None:
        """Raise ConfigError if this member must not open, because the cursor has another filter.

        Also raise it if the value is the moved position of a shared subscription.
        """
        if value.is_of_shared:
            raise ConfigError(
                f"{self._subscription} exists and differs: it is a shared one, whose position was moved, and the "
                "options ask for an ordered one. Use another name, or reset=True to forget its position.",
                argument="name",
            )
        if set(value.filter) == set(self.own):
            return
        if self._on_change == "refuse":
            raise ConfigError(
                f"{self._subscription} exists and differs: it filters {shown_filter(value.filter)}, the options ask "
                f"for {shown_filter(self.own)}. Use another name, reset=True to forget its position, or "
                "on_filter_change='from_here' to change the filter from the kept position onward.",
                argument="name",
            )
        if value.holder and not covers(self.own, value.filter):
            raise ConfigError(
                f"{self._subscription}: it filters {shown_filter(value.filter)} for members that are open; the "
                f"narrower filter {shown_filter(self.own)} would withhold their events. Close them first.",
                argument="on_filter_change",
            )

    def may_take_over(self, value: CursorValue) -> bool:
        """Return whether this standby may take the cursor over. The first time that it must not, log a warning."""
        is_same = set(value.filter) == set(self.own)
        if is_same or (self._on_change == "from_here" and covers(self.own, value.filter)):
            return True
        if not self._is_logged:
            self._is_logged = True
            self._logger.warning(
                "%s: this member stands by and takes nothing over: another member changed the filter to %s, and this "
                "member handles %s only",
                self._subscription, shown_filter(value.filter), shown_filter(self.own),
            )  # fmt: skip
        return False

    def log_change(self, old: CursorValue) -> None:
        """Log a warning if this member has taken the cursor with another filter than before."""
        if set(old.filter) != set(self.own):
            self._logger.warning(
                "%s: its filter was %s and is %s now, from its position onward",
                self._subscription, shown_filter(old.filter), shown_filter(self.own),
            )  # fmt: skip
