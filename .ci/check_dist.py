"""Check what the sdist and the wheels in a folder contain: python .ci/check_dist.py dist"""

import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
MAX_WHEEL_BYTES = 3 * 2**20


def in_package(pattern: str) -> set[str]:
    return {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/eda").rglob(pattern)}


def problems_of(file: str, names: set[str], wanted: set[str], unwanted: tuple[str, ...]) -> list[str]:
    lacking = [f"{file} lacks {name}" for name in sorted(wanted - names)]
    return lacking + [f"{file} has {name}" for name in sorted(names) if name.endswith(unwanted)]


def main(folder: Path) -> int:
    sources, contracts, stubs, plain = map(in_package, ("*.pyx", "*.pxd", "*.pyi", "*.py"))
    package = contracts | stubs | plain | {"eda/py.typed"}
    sdists, wheels = sorted(folder.glob("*.tar.gz")), sorted(folder.glob("*.whl"))
    problems = [f"{folder} has no {kind}" for kind, found in (("sdist", sdists), ("wheel", wheels)) if not found]
    problems += [f"src/eda has no {kind}" for kind, names in (("stubs", stubs), (".pyx", sources)) if not names]

    for path in sdists:
        with tarfile.open(path) as archive:
            names = {PurePosixPath(*PurePosixPath(name).parts[1:]).as_posix() for name in archive.getnames()}
        wanted = {f"src/{name}" for name in package | sources} | {"LICENSE", "README.md", "pyproject.toml", "setup.py"}
        problems += problems_of(path.name, names, wanted, (".c", ".so", ".pyd", ".pyc"))

    for path in wheels:
        names = set(zipfile.ZipFile(path).namelist())
        problems += problems_of(path.name, names, package, (".c", ".pyx", ".pyc"))
        # A compiled module's name goes on with the interpreter's tag: compare up to the first dot.
        compiled = {name.partition(".")[0] for name in names if name.endswith((".so", ".pyd"))}
        lacking = [name for name in sorted(sources) if name.partition(".")[0] not in compiled]
        problems += [f"{path.name} lacks {name}, compiled" for name in lacking]
        problems += [f"{path.name} has {name}" for name in sorted(names) if "/tests/" in f"/{name}"]
        if path.stat().st_size > MAX_WHEEL_BYTES:
            problems.append(f"{path.name} has {path.stat().st_size:,} bytes, more than {MAX_WHEEL_BYTES:,}")
        print(f"{path.name}: {path.stat().st_size:,} bytes, {len(compiled)} compiled modules")

    print("\n".join(problems) or f"{folder}: contents as they should be")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
