"""What has started the running code: so that nobody waits for a function of the user that waits for the caller."""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["RUN_IN"]

# The tokens of those whose functions of the user have started the running code. Tasks and threads inherit it.
RUN_IN: ContextVar[tuple[object, ...]] = ContextVar("eda_run_in", default=())
