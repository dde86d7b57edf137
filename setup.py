"""Build the compiled modules; all static metadata is in pyproject.toml.

EDA_DEBUG=1 builds with bounds checks, assertions and line tracing.
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("EDA_DEBUG") == "1"
MSVC = sys.platform == "win32"

macros = [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")] if DEBUG else [("CYTHON_WITHOUT_ASSERTIONS", "1")]
flags = [] if MSVC else (["-O0", "-g"] if DEBUG else ["-O3", "-Wno-unused-function"])
# Python's own flags ask for debug information, which would be four fifths of a wheel. CFLAGS=-g keeps it.
if not DEBUG and not MSVC and "-g" not in os.environ.get("CFLAGS", "").split():
    flags.append("-g0")

extensions = [
    Extension(
        ".".join(path.with_suffix("").parts[1:]), [path.as_posix()], define_macros=macros, extra_compile_args=flags
    )
    for path in sorted(Path("src/eda").rglob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        include_path=["src"],
        # Two environments in one tree may differ in this, and must not compile each other's C.
        build_dir="build/cython-debug" if DEBUG else "build/cython",
        compiler_directives={
            "language_level": 3,
            "wraparound": False,
            "boundscheck": DEBUG,
            "linetrace": DEBUG,
            "binding": False,
            # Every docstring begins with the signature, where inspect.signature() and help() look for it.
            "embedsignature": True,
            "embedsignature.format": "clinic",
            "freethreading_compatible": False,
        },
        show_all_warnings=False,
    ),
    # One compiler for each core: with three Pythons to build for, .ci/run waits for this.
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
