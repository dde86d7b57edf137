"""Runs a fuzz target under atheris: python tests/fuzz/run.py TARGET [options of libFuzzer].

A target is named by its path in this folder: `envelope`, `transport/frame`.

New inputs go to build/fuzz/corpus/TARGET, findings to build/fuzz/findings. Where `make fuzz` built the compiled modules
with clang's coverage (build/fuzz/lib), they guide the search; elsewhere only Python's does.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
BUILT = HERE.parent.parent / "build" / "fuzz"

# In Python, what of eda the targets reach; the compiled modules bring their own counters.
INSTRUMENTED = [
    "eda.jetstream.publish_answers",
    "eda.headers",
    "eda.subscribing.source",
    "eda.jetstream.subjects",
    "eda.typed.decoding",
    "eda.encodings",
]


def main(target: str, *options: str) -> None:
    sys.path.insert(0, str(HERE.parent))
    libfuzzer = BUILT / "libfuzzer.so"
    if libfuzzer.exists():
        sys.path.insert(0, str(BUILT / "lib"))
        # Before the compiled modules, which register with it as they are loaded.
        ctypes.CDLL(str(libfuzzer), os.RTLD_GLOBAL | os.RTLD_NOW)
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        check = importlib.import_module(f"fuzz.{target.replace('/', '.')}").check
    found, findings = BUILT / "corpus" / target, BUILT / "findings"
    for folder in (found, findings):
        folder.mkdir(parents=True, exist_ok=True)
    arguments = [
        f"{sys.executable} {__file__} {target}",  # a merge starts itself anew, through a shell
        f"-artifact_prefix={findings / target.replace('/', '-')}-",
        "-max_len=2048",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
        *options,
    ]
    if all(option.startswith("-") for option in options):
        arguments += [str(found), str(HERE / "corpus" / target)]
    atheris.Setup(arguments, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
