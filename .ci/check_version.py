"""Check that a tag, the package and the changelog name one version: python .ci/check_version.py v0.1.0"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(tag: str) -> int:
    version = tag.removeprefix("v")
    found = {
        "src/eda/_version.py": r'^__version__ = "(.+)"$',
        "CHANGELOG.md": r"^## \[(\d.*?)\] - \d{4}-\d\d-\d\d$",
        "CITATION.cff": r"^version: (.+)$",
    }
    problems = []
    for name, pattern in found.items():
        named = re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
        if named is None or named[1] != version:
            problems.append(f"{name} names {named[1] if named else 'no released version'}, the tag names {version}")
    print("\n".join(problems) or f"version {version} everywhere")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
