"""Compares two exported documents: whether new readers read stored events, and old readers read new events.

While a schema id stays the same, both must hold. Under a new schema id only the first must hold, by upcasters: readers
of the old release refuse events of an id that they don't know, so the new readers must be deployed before the writers.
"""

from __future__ import annotations

from collections.abc import Iterator

from eda.errors import ConfigError
from eda.schemas.coverage import coverage_gaps
from eda.schemas.document import Entry
from eda.schemas.finding import NEW_READERS, NOBODY, OLD_READERS, Finding, Gap
from eda.schemas.protobuf_coverage import cut_values, protobuf_gaps, reused_numbers

__all__ = ["compare", "is_breaking"]

Types = dict[str, Entry]

_NEW_ID = "declare a new schema id, write an upcaster to it, and deploy readers before writers"
_ADVICE = {
    (NEW_READERS, "required"): f"Give the field a default; or {_NEW_ID}",
    (NEW_READERS, "unknown"): f"Keep the field, or accept unknown fields; or {_NEW_ID}",
    (NEW_READERS, "moved"): f"Add new fields at the end only; or {_NEW_ID}",
    (OLD_READERS, "required"): f"Keep the field, and keep it required; or {_NEW_ID}",
    (OLD_READERS, "moved"): f"Add new fields at the end only; or {_NEW_ID}",
}
_ANY_ADVICE = {
    NEW_READERS: f"Accept the stored form as well; or {_NEW_ID}",
    OLD_READERS: f"Write the old form; or {_NEW_ID}",
}
_SIDES = {NEW_READERS: ("a stored event", "a new reader"), OLD_READERS: ("a new event", "an old reader")}
_DEPLOY = "Deploy all readers before the first writer"
# Readers of eda decode by the encoding that each event names, so plain data in any of these can be read.
_PLAIN = ("json", "msgpack")


def compare(old: Types, new: Types) -> list[Finding]:
    """Return all findings, sorted: by type, then by path. Raises ConfigError for a schema that can't be read."""
    found: dict[Finding, None] = {}
    for type_ in old:
        try:
            found |= dict.fromkeys(_type_findings(type_, old, new))
        except (
            AttributeError,
            IndexError,
            KeyError,
            RecursionError,
            TypeError,
            ValueError,
            ZeroDivisionError,
        ) as error:
            reason = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
            raise ConfigError(f"the schema of the type {type_!r} can't be read: {reason}") from error
    return sorted(found)


def is_breaking(findings: list[Finding]) -> bool:
    """Return whether one of the findings breaks a reader."""
    return any(finding.breaks != NOBODY for finding in findings)


def _type_findings(type_: str, old: Types, new: Types) -> Iterator[Finding]:
    mine = old[type_]
    name = _type_for(type_, new)
    if name is None:
        advice = f"Keep its class, or make {type_!r} an alias of the class that reads it now"
        yield Finding(type_, "", "the type was removed", NEW_READERS, advice)
        return
    theirs = new[name]
    known_as = _type_for(name, old)
    if known_as is None:
        yield Finding(type_, "", f"the type is now an alias of {name!r}, which old readers don't know", NOBODY, _DEPLOY)
    for alias in mine["aliases"]:
        now = _type_for(alias, new)
        if now is None:
            advice = f"Keep the alias: stored events may have the type {alias!r}"
            yield Finding(type_, "", f"the alias {alias!r} was removed", NEW_READERS, advice)
        elif now != name:
            advice = "Leave the alias where it was"
            yield Finding(type_, "", f"the alias {alias!r} moved to the type {now!r}", NEW_READERS, advice)
    encodings = (mine["encoding"], theirs["encoding"])
    if encodings[0] != encodings[1] and not (encodings[0] in _PLAIN and encodings[1] in _PLAIN):
        change = f"the encoding changed from {encodings[0]!r} to {encodings[1]!r}"
        advice = "Keep the encoding, or declare a new type"
        yield Finding(type_, "", change, NEW_READERS, advice)
        yield Finding(type_, "", change, OLD_READERS, advice)
        return
    yield from _chain_findings(type_, mine, theirs)
    if mine["schema"] == theirs["schema"]:
        # Old readers read the new events with the class that they have for the new type, if they have one.
        sides = (NEW_READERS, OLD_READERS) if known_as == type_ else (NEW_READERS,)
        yield from _payload_findings(type_, mine, theirs, sides)
    elif not theirs["schema"]:  # a class without an id reads events of every id without upcasters
        yield from _payload_findings(type_, mine, theirs, (NEW_READERS,))


def _type_for(name: str, types: Types) -> str | None:
    """Return the type whose class reads events of this type or alias."""
    if name in types:
        return name
    return next((type_ for type_, entry in types.items() if name in entry["aliases"]), None)


def _sources(entry: Entry) -> set[str]:
    """Return the schema ids from which upcasters lead to the entry's own id, without that id."""
    step: dict[str, str] = dict(entry["upcasters"])
    found = set()
    for source in step:
        visited: set[str] = set()
        at = source
        while at in step and at not in visited and at != entry["schema"]:
            visited.add(at)
            at = step[at]
        if at == entry["schema"] and source != at:
            found.add(source)
    return found


def _chain_findings(type_: str, old: Entry, new: Entry) -> Iterator[Finding]:
    before, now = old["schema"], new["schema"]
    readable = _sources(new)
    for source in sorted(_sources(old) - readable - {now}):
        change = f"stored events of the schema {source!r} have no upcasters to {now!r} any more"
        yield Finding(type_, "", change, NEW_READERS, "Keep the upcasters of all schemas that stored events have")
    if before == now:
        return
    if now in _sources(old):
        change = f"the schema goes back from {before!r} to the older id {now!r}"
        advice = "Take an id that no event has had, and write an upcaster to it"
        yield Finding(type_, "", change, NEW_READERS, advice)
    elif now and before not in readable:
        change = f"the schema changed from {before!r} to {now!r}, and no upcasters lead from one to the other"
        advice = f"Write an upcaster from {before!r} to {now!r}, or keep the id"
        yield Finding(type_, "", change, NEW_READERS, advice)
    else:
        change = f"the schema changed from {before!r} to {now!r}, which old readers don't know"
        if not before:  # a class without an id reads events of every id
            change = (
                f"the schema changed from '' to {now!r}, but old readers have no id and take new events for old ones"
            )
        yield Finding(type_, "", change, NOBODY, _DEPLOY)


def _payload_findings(type_: str, old: Entry, new: Entry, sides: tuple[str, ...]) -> Iterator[Finding]:
    is_protobuf = "protobuf" in old
    if is_protobuf != ("protobuf" in new):
        for side in sides:
            change = "the payload changed between a protobuf message and another class"
            yield Finding(type_, "", change, side, "Keep the kind of the class, or declare a new type")
        return
    part = "protobuf" if is_protobuf else "payload"
    is_binary = "msgpack" in (old["encoding"], new["encoding"])
    for side in sides:
        writer, reader = (old[part], new[part]) if side == NEW_READERS else (new[part], old[part])
        gaps = protobuf_gaps(writer, reader) if is_protobuf else coverage_gaps(writer, reader, is_binary=is_binary)
        for gap in gaps:
            yield _finding(type_, gap, side, side)
        if is_protobuf:
            for gap in cut_values(writer, reader):
                yield _finding(type_, gap, side, NOBODY)
    if is_protobuf:
        for gap in reused_numbers(old[part], new[part]):
            yield Finding(
                type_,
                gap.path,
                gap.change,
                NEW_READERS,
                "Reserve the numbers of removed fields, and never use them again",
            )


def _finding(type_: str, gap: Gap, side: str, breaks: str) -> Finding:
    writer, reader = _SIDES[side]
    change = gap.change.replace("{writer}", writer).replace("{reader}", reader)
    advice = _ADVICE.get((side, gap.kind), _ANY_ADVICE[side])
    return Finding(type_, f"${gap.path}", change, breaks, advice)
