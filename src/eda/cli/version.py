"""The version of the installed package."""

from __future__ import annotations

__all__ = ["version"]


def version() -> str:
    """Return the version of eda-fast, or "(not installed)" if only its sources are there."""
    from importlib import metadata  # slow to import, and most commands don't need it

    try:
        return metadata.version("eda-fast")
    except metadata.PackageNotFoundError:
        return "(not installed)"
