"""Reads files that `eda schema export` wrote, in either format."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from eda.errors import ConfigError
from eda.schemas.asyncapi import types_of_asyncapi
from eda.schemas.document import FORMAT, VERSION, Entry, types_of_document

__all__ = ["read_types"]


def read_types(text: str | bytes) -> dict[str, Entry]:
    """Return the types of an exported document. Raises ConfigError if the text is not such a document, and says why."""
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"it is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError("it is not a file of `eda schema export`: not a JSON object")
    if "asyncapi" in document:
        try:
            types = types_of_asyncapi(document)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = "it is an AsyncAPI document, but not one of `eda schema export`: a message has no complete `x-eda`"
            raise ConfigError(reason) from error
    else:
        types = _types_of(document)
    for type_, entry in types.items():
        _check(type_, entry)
    return types


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _types_of(document: dict[str, Any]) -> dict[str, Entry]:
    mark = document.get("x-eda")
    if not isinstance(mark, dict) or mark.get("format") != FORMAT:
        raise ConfigError(f'it is not a file of `eda schema export`: its "x-eda" has no format {FORMAT!r}')
    if mark.get("version") != VERSION:
        raise ConfigError(f"its version is {mark.get('version')!r}; this version of eda reads only {VERSION}")
    if not isinstance(document.get("$defs"), dict):
        raise ConfigError('its "$defs" is not an object')
    try:
        return types_of_document(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError("a definition in it has no complete `x-eda`") from error


def _check(type_: Any, entry: Any) -> None:
    """Raise ConfigError if an entry lacks a part or has a part of a wrong type."""
    fits = (
        isinstance(type_, str)
        and isinstance(entry, dict)
        and all(isinstance(entry.get(name), str) for name in ("schema", "encoding"))
        and isinstance(entry.get("aliases"), list)
        and all(isinstance(alias, str) for alias in entry["aliases"])
        and isinstance(entry.get("upcasters"), list)
        and all(isinstance(step, list) and [type(id_) for id_ in step] == [str, str] for step in entry["upcasters"])
        and ("protobuf" in entry or "payload" in entry)
    )
    if not fits:
        raise ConfigError(f"its entry for the type {type_!r} is not complete")
