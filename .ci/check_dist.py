"""Check what the sdist and the wheel in a folder contain: python .ci/check_dist.py dist"""

import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]


def only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        sys.exit(f"{folder} should have one {pattern}, not {[path.name for path in found]}")
    return found[0]


def in_package(pattern: str) -> set[str]:
    return {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/eda").rglob(pattern)}


def problems_of(kind: str, names: set[str], wanted: set[str], unwanted: tuple[str, ...]) -> list[str]:
    lacking = [f"the {kind} lacks {name}" for name in sorted(wanted - names)]
    return lacking + [f"the {kind} has {name}" for name in sorted(names) if name.endswith(unwanted)]


def main(folder: Path) -> int:
    with tarfile.open(only(folder, "*.tar.gz")) as archive:
        sdist = {PurePosixPath(*PurePosixPath(name).parts[1:]).as_posix() for name in archive.getnames()}
    with zipfile.ZipFile(only(folder, "*.whl")) as archive:
        wheel = set(archive.namelist())

    sources, contracts, stubs, plain = map(in_package, ("*.pyx", "*.pxd", "*.pyi", "*.py"))
    package = contracts | stubs | plain | {"eda/py.typed"}
    # A compiled module's name goes on with the interpreter's tag: compare up to the first dot.
    compiled = {name.partition(".")[0] for name in wheel if name.endswith((".so", ".pyd"))}

    wanted = {f"src/{name}" for name in package | sources} | {"LICENSE", "README.md", "pyproject.toml", "setup.py"}
    problems = problems_of("sdist", sdist, wanted, (".c", ".so", ".pyd", ".pyc"))
    problems += problems_of("wheel", wheel, package, (".c", ".pyx", ".pyc"))
    problems += [
        f"the wheel lacks {name}, compiled" for name in sorted(sources) if name.partition(".")[0] not in compiled
    ]
    problems += [f"src/eda has no {kind}" for kind, names in (("stubs", stubs), (".pyx", sources)) if not names]
    print("\n".join(problems) or f"{folder}: contents as they should be ({len(compiled)} compiled modules)")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
