"""The configuration of the embedded server: writes it in nats-server's language, and finds the secrets in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eda.errors import ConfigError

__all__ = ["render", "secrets_in"]

_SECRET_KEY = re.compile("pass|token|secret|seed|nkey|jwt|key$|cookie", re.IGNORECASE)


def render(settings: Mapping[str, Any]) -> str:
    """Return settings in nats-server's language, without those that are None. Raises ConfigError for other values."""
    given = ((key, value) for key, value in settings.items() if value is not None)
    return "\n".join(f"{_render_key(key)}: {_render_value(value)}" for key, value in given)


def _render_key(key: object) -> str:
    # The language has no escapes in keys.
    if not isinstance(key, str) or not re.fullmatch(r'[^"\\\x00-\x1f\x7f\ud800-\udfff]+', key):
        raise ConfigError(f"config can't have the key {key!r}", argument="config")
    return f'"{key}"'


def _render_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str | Path) and not re.search("[\ud800-\udfff]", str(value)):
        escaped = re.sub(r'["\\]', r"\\\g<0>", str(value))
        return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", escaped) + '"'
    if isinstance(value, Mapping):
        return f"{{\n{render(value)}\n}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_render_value(item) for item in value)}]"
    raise ConfigError(f"config can't hold a {type(value).__name__} like this", argument="config")


def secrets_in(settings: object) -> Iterator[str]:
    """Yield the texts in the settings that must not show in a log."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if isinstance(value, str) and _SECRET_KEY.search(str(key)):
                yield value
            else:
                yield from secrets_in(value)
    elif isinstance(settings, list | tuple):
        for each in settings:
            yield from secrets_in(each)
