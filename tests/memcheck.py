"""Runs tests under valgrind: python tests/memcheck.py [what pytest is given]. Fails where eda's compiled code errs.

CPython and others have errors of their own, so only those count where one of our modules is on the stack. Leaks don't:
the interpreter leaves most of its memory to the system when it ends (tests/leaks.py counts instead).
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

REPORT = Path("build/memcheck.xml")
OURS = f"{os.sep}eda{os.sep}_"


def main(*arguments: str) -> int:
    REPORT.parent.mkdir(exist_ok=True)
    valgrind = [
        "valgrind",
        "--tool=memcheck",
        "--leak-check=no",
        "--show-leak-kinds=none",  # as XML, it told of them all the same: 500 MB
        "--num-callers=40",
        "--error-limit=no",
        "--child-silent-after-fork=yes",  # into the same report
        "--xml=yes",
        f"--xml-file={REPORT}",
    ]
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=0", *arguments]
    # Without CPython's own allocator, so that each object has borders that are watched.
    status = subprocess.run([*valgrind, *pytest], env=os.environ | {"PYTHONMALLOC": "malloc"}, check=False).returncode
    errors = ET.parse(REPORT).getroot().findall("error")
    ours = [error for error in errors if any(OURS in (obj.text or "") for obj in error.iter("obj"))]
    print(f"memcheck: {len(errors)} errors, {len(ours)} of them with eda on the stack")
    for error in ours:
        print(f"\n{error.findtext('kind')}: {error.findtext('what') or error.findtext('xwhat/text')}")
        for frame in error.iter("frame"):
            line = f":{frame.findtext('line')}" if frame.findtext("line") else ""
            print(f"  {frame.findtext('fn') or '?'} {frame.findtext('file') or frame.findtext('obj')}{line}")
    return status or bool(ours)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
