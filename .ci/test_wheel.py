"""Run the tests of a wheel as cibuildwheel does: python .ci/test_wheel.py <wheel> <sources> <folder>

Makes a virtual environment in <folder>/venv, installs the wheel with the extras of `test-extras`, copies the
`test-sources` out of <sources> into the empty folder <folder>/tests, and runs each `test-command` there. The settings
are those of <sources>/pyproject.toml.
"""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path


def main(wheel: Path, sources: Path, folder: Path) -> int:
    settings = tomllib.loads((sources / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    shutil.rmtree(folder, ignore_errors=True)
    tests = folder / "tests"
    tests.mkdir(parents=True)
    for name in settings["test-sources"]:
        if (sources / name).is_dir():
            shutil.copytree(sources / name, tests / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(sources / name, tests / name)
    venv.create(folder / "venv", with_pip=True)
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    env = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(folder / "venv")}
    env.pop("PYTHONPATH", None)
    extras = ",".join(settings["test-extras"])
    pip = [str(scripts / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, f"{wheel}[{extras}]"], env=env, check=True)
    for command in settings["test-command"]:
        print(f"== {command}", flush=True)
        failed = subprocess.run(command, shell=True, cwd=tests, env=env).returncode
        if failed:
            return failed
    return 0


if __name__ == "__main__":
    sys.exit(main(*(Path(argument).resolve() for argument in sys.argv[1:4])))
