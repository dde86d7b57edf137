"""What removes a server's temporary directory when the process that made it is gone, however it ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["Caretaker"]

PID_FILE = "pid"
END_S = 1.0

# Its stdin is a pipe whose other end the owner alone holds, so `read` returns when the owner says goodbye, or is dead.
# A service manager may send SIGTERM to all processes of a service: it must outlive that. On Linux the kernel has told
# the server to end. The server still writes then, so it must be gone before its directory is; 10 s are more than it
# takes.
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
    """A process that waits for the end of this one, to remove `home` and the server whose pid stands in it.

    There is none on Windows, and where there is no `sh`: what a killed process leaves stays there.
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
        """Note the server's process; None: it is gone, and its number may be another's."""
        file = self._home / PID_FILE
        if pid is None:
            file.unlink(missing_ok=True)
        else:
            file.write_text(str(pid))

    def end(self) -> None:
        """Say goodbye: there is nothing to remove."""
        pipe, self._pipe = self._pipe, -1
        process, self._process = self._process, None
        if pipe < 0:
            return
        with contextlib.suppress(BrokenPipeError):  # it was killed
            os.write(pipe, b"goodbye\n")
        os.close(pipe)
        if process is not None:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
