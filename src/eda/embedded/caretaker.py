"""Removes a server's temporary directory when the process that made it is gone, however that process ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["Caretaker"]

PID_FILE = "pid"
END_S = 1.0

# The script reads from a pipe that only the owner can write to. So `read` returns when the owner says goodbye or dies.
# The script ignores SIGTERM, because a service manager may send SIGTERM to all processes of a service. The server still
# writes files while it ends, for less than 10 s. So the script removes the directory only when the server has ended. On
# Linux the kernel has already sent the server a SIGTERM.
_SCRIPT = """
trap '' HUP INT TERM
read -r goodbye && exit 0
if [ -s "$1/pid" ]; then
    pid=$(cat "$1/pid")
    kill -TERM "$pid" 2>/dev/null
    n=0
    while kill -0 "$pid" 2>/dev/null && [ "$n" -lt 100 ]; do
        n=$((n + 1))
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null
fi
rm -rf "$1"
"""


class Caretaker:
    """A process that waits until this process ends, then ends the server and removes its directory, `home`.

    `home` has a file with the server's pid. On Windows, and without `sh`, there is no such process: a killed owner then
    leaves server and directory behind.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        if sys.platform == "win32":
            return
        theirs, self._pipe = os.pipe()
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "eda-caretaker", str(home)],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env={"PATH": os.defpath},
            )
        except OSError:
            self.end()
        finally:
            os.close(theirs)

    def watch(self, pid: int | None) -> None:
        """Store the server's pid. None removes it: after the server's end, another process may get the same pid."""
        file = self._home / PID_FILE
        if pid is None:
            file.unlink(missing_ok=True)
        else:
            file.write_text(str(pid))

    def end(self) -> None:
        """End the caretaker: there is nothing left to remove."""
        pipe, self._pipe = self._pipe, -1
        process, self._process = self._process, None
        if pipe < 0:
            return
        with contextlib.suppress(BrokenPipeError):  # the caretaker was killed
            os.write(pipe, b"goodbye\n")
        os.close(pipe)
        if process is not None:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
