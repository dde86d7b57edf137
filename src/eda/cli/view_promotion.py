"""`eda views promote`: checks that a version has caught up, and lets views read it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import click

from eda.cli.session import connection
from eda.cli.view_lag import VersionLag, lag_of
from eda.cli.view_sink import opened_sink

__all__ = ["Candidate", "Refusal", "examine", "print_promoted", "refusal_of", "switch"]


class Refusal(Exception):
    """The version is not promoted. The text says why."""


@dataclass(frozen=True)
class Candidate:
    """A version that may be promoted. `previous`: the version that views read now; None: views read no version."""

    lag: VersionLag
    previous: int | None

    @property
    def is_current(self) -> bool:
        """Return whether views read this version already."""
        return self.previous == self.lag.version


async def examine(into: str, name: str, version: int, max_lag: int, server: dict[str, Any]) -> Candidate:
    """Return the version if it may be promoted. Raises Refusal, EdaError, DatabaseFailed."""
    async with opened_sink(into) as sink:
        versions = {each.version: each for each in await sink.versions(name)}
        previous = await sink.current(name)
    if version not in versions:
        if not versions:
            raise Refusal(f"the database has no read model {name!r}")
        known = ", ".join(map(str, sorted(versions)))
        raise Refusal(f"{name!r} has no version {version} in this database. It has: {known}")
    async with connection(server, client="eda-views") as conn:
        lag = await lag_of(conn, versions[version])
    if reason := refusal_of(lag, max_lag):
        raise Refusal(reason)
    return Candidate(lag, previous)


def refusal_of(version: VersionLag, max_lag: int) -> str | None:
    """Return why a version must not be promoted; None if it may be."""
    whose = f"version {version.version} of {version.name!r} is not promoted"
    if not version.streams:
        return f"{whose}: its projection never ran"
    for stream in version.streams:
        if stream.problem is not None:
            return f"{whose}: {stream.problem} (stream {stream.stream!r})"
        if stream.lag is None or stream.lag > max_lag:
            events = "1 event" if stream.lag == 1 else f"{stream.lag} events"
            return f"{whose}: it is {events} behind stream {stream.stream!r}, and --max-lag allows {max_lag}"
    return None


async def switch(into: str, name: str, version: int) -> bool:
    """Let views read the version. Return whether that changed anything. Raises EdaError, DatabaseFailed."""
    async with opened_sink(into) as sink:
        return await sink.promote(name, version)


def print_promoted(found: Candidate, changed: bool, as_json: bool) -> None:
    """Print which version views read now."""
    lag = found.lag
    if as_json:
        fields = {
            "name": lag.name,
            "version": lag.version,
            "previous": found.previous,
            "changed": changed,
            "lag": lag.lag,
            "lag_s": None if lag.lag_s is None else round(lag.lag_s, 3),
        }
        click.echo(json.dumps(fields))
    elif changed:
        click.echo(f"views of {lag.name} now read version {lag.version}")
    else:
        click.echo(f"views of {lag.name} read version {lag.version} already")
