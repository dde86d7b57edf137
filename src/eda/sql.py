"""`eda.sql`: the databases of projections, and the outbox."""

from __future__ import annotations

__all__: list[str] = []
