"""On what it was measured."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import nats

import eda
from suite.adapters import nats_c

__all__ = ["describe"]

PACKAGES = {"eda": "eda-fast", "nats-py": "nats-py", "FastStream": "faststream", "uvloop": "uvloop"}


async def describe(addr: str | None) -> dict[str, Any]:
    """Return the machine, the versions, and how busy it is now. ConnectError: the user's server can't be reached."""
    versions = {}
    for name, package in PACKAGES.items():
        try:
            versions[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[name] = None
    versions["nats.c"] = nats_c.version()
    return {
        "host": platform.node(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "server": await server_of(addr),
        "versions": versions,
        "load_average_before": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


async def server_of(addr: str | None) -> str:
    if addr is None:
        return f"nats-server {eda.EmbeddedServer().version()}, embedded"
    async with eda.connect(addr, client="bench-admin"):  # for an error that names the address and not its password
        link = await nats.connect(addr)
        version = link.connected_server_version
        await link.close()
    return f"nats-server {version.major}.{version.minor}.{version.patch}, the user's"


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
