"""nats.c: this process becomes the program of nats_c.c, which is compiled first."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from suite.work import Task, ack_pending_of, envelope_of

SOURCE = Path(__file__).with_suffix(".c")
HEADER = "#include <nats/nats.h>\n"


def version() -> str | None:
    """Return the installed library's version, None where there is none to compile against."""
    compiler = shutil.which("cc")
    if compiler is None or not SOURCE.exists():  # an sdist has no C
        return None
    shown = subprocess.run(
        [compiler, "-E", "-P", "-"], input=HEADER + "version=NATS_VERSION_STRING\n", capture_output=True, text=True
    )
    return shown.stdout.rpartition("version=")[2].strip().strip('"') if shown.returncode == 0 else None


def program() -> Path:
    """Return the compiled program. CalledProcessError: it does not compile."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    made = Path(__file__).parents[3] / "build" / f"nats_c-{digest}"
    if not made.exists():
        made.parent.mkdir(exist_ok=True)
        scratch = made.with_name(f"{made.name}.{os.getpid()}")
        subprocess.run(["cc", "-O2", "-Wall", "-o", scratch, SOURCE, "-lnats"], check=True)
        scratch.rename(made)
    return made


def main() -> None:
    given = json.load(sys.stdin)
    task = Task(**given)
    with tempfile.NamedTemporaryFile(delete=False) as envelope:  # the program removes it
        envelope.write(envelope_of(task.size))
    workload = task.workload.partition("-")[0]
    consumer = (*task.consumers, "-")[0]
    arguments = [workload, task.mode, task.stream, consumer, task.seconds, task.limit, task.rate, envelope.name]
    arguments.append(ack_pending_of(task.size))
    path = str(program())
    os.execve(path, [path, *map(str, arguments)], {**os.environ, "EDA_BENCH_URL": task.url})


if __name__ == "__main__":
    main()
