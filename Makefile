# The targets that people and CI call. Each sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
CARGO := $(shell command -v cargo)
CRATES := $(shell find native -name target -prune -o -type f \( -name '*.rs' -o -name Cargo.toml \) -print)
WHY_PLAIN := $(if $(CARGO),cargo failed: try cargo build --manifest-path native/Cargo.toml,cargo is not installed)
SANITIZED := cd native && MUTATIONS=2000000 SEED=$$(date +%s) RUSTFLAGS='-Zsanitizer=address -Cdebug-assertions' \
	cargo +nightly test --quiet --release -p transcoder --test mutations --target $$(rustc -vV | sed -n 's/host: //p')
PARALLEL := -n 4 --dist loadscope
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check
LOCKED := $(PIP_INSTALL) --require-hashes --no-deps
LOCK := $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header --no-emit-index-url \
	--no-emit-trusted-host --no-emit-find-links

.PHONY: help setup runtime servers run test test-quick test-native test-rust chaos lint lint-python lint-rust docs docs-site proto lock \
	bench bench-full bench-compare bench-peers profile wheel wheels bundle deb test-packages clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: .venv/developer .venv/btfeed  ## create the virtual environment with the developers' tools, and build the native modules

# What runs btfeed, and what builds it. The stamps of the other targets are in .venv, too, so that a new one gets everything again.
.venv/ready: requirements-flow.txt requirements-build.txt
	@$(PYTHON) -c 'import sys; sys.exit(f"btfeed needs Python 3.11 or later, and $(PYTHON) is {sys.version.split()[0]}: name another with make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear .venv
	$(LOCKED) -r requirements-flow.txt -r requirements-build.txt
	@touch $@

.venv/developer: .venv/ready requirements.txt
	$(LOCKED) -r requirements.txt
	@touch $@

.venv/btfeed: .venv/ready pyproject.toml $(CRATES)
	@rm -f btfeed/_native*.so sinks/_messages*.so
	$(PIP_INSTALL) -q --no-build-isolation --no-deps --editable .
	@$(BIN)/python -c 'import btfeed._native' 2>/dev/null && echo 'native transcoder: built' || \
		echo 'native transcoder: not built, the plain path runs; $(WHY_PLAIN)'
	@$(BIN)/python -c 'import sinks._messages' 2>/dev/null && echo 'native messages to Kafka: built' || \
		echo 'native messages to Kafka: not built, the plain path runs; $(WHY_PLAIN)'
	@touch $@

runtime: .venv/btfeed  ## create the virtual environment with what runs btfeed and no more, and build the native modules

run: runtime  ## start the server, post what the AppMon of a web shop would, and show the records and what became of the visits
	$(BIN)/python examples/first_run.py

servers: setup  ## install what tests need beyond Python: Kafka, Elasticsearch, their JDKs, strace, Prometheus, haproxy, nginx, Chromium
	$(BIN)/python -m tests.servers.install

test: setup  ## run every check and test, with real clients and servers
	$(MAKE) --jobs 2 --output-sync=target lint-python test-rust servers
	$(BIN)/pytest $(PARALLEL) --require-all --durations=25

test-quick: setup  ## run the tests that need no server, no Java and no strace and are not slow, with fewer repetitions
	$(BIN)/pytest $(PARALLEL) --quick

test-native: setup  ## compare the native transcoder with the plain one on 200,000 cases, and run it with AddressSanitizer
	$(BIN)/python -m tests.records.twins
	@if cargo +nightly --version >/dev/null 2>&1; then $(SANITIZED); else echo 'AddressSanitizer needs a nightly toolchain.'; fi

chaos: servers  ## run the tests of faults that take minutes each
	$(BIN)/pytest --require-all -m chaos

lint: lint-python lint-rust  ## check style, types, the direction of imports, and generated files

lint-python: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --check
	$(BIN)/python -m docs.generate --check

lint-rust: setup
	$(if $(CARGO),cd native && cargo fmt --all --check && cargo clippy --quiet --workspace --all-targets -- -D warnings)

test-rust: lint-rust
	$(if $(CARGO),cd native && cargo test --quiet --workspace)

docs: setup  ## generate the tables in docs/ and README.md from the code and the figures
	$(BIN)/python -m docs.generate

docs-site: setup  ## build the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

proto: setup  ## generate btfeed/posts/bt_pb2.py and .pyi from proto/bt.proto
	$(BIN)/python proto/generate.py

lock: setup  ## write requirements*.txt from pyproject.toml, the same versions in each
	$(LOCK) --output-file requirements-runtime.txt pyproject.toml
	$(LOCK) --extra flow --constraint requirements-runtime.txt --output-file requirements-flow.txt pyproject.toml
	$(LOCK) --only-build-deps --all-build-deps --constraint requirements-runtime.txt --output-file requirements-build.txt pyproject.toml
	$(LOCK) --extra dev --extra flow --extra otel --constraint requirements-runtime.txt --constraint requirements-build.txt --output-file requirements.txt pyproject.toml

bench: setup  ## measure what an occurrence costs, in minutes; writes benchmarks/results/latest
	$(BIN)/python -m benchmarks run $(if $(OUT),--out $(OUT))

bench-full: setup  ## measure everything, in hours
	$(BIN)/python -m benchmarks run --full

bench-compare: setup  ## compare the latest result with BASE=FILE; fails if a case is worse
	$(BIN)/python -m benchmarks compare $(or $(BASE),$(error no result to compare with: make bench-compare BASE=FILE))

profile: servers  ## draw flame graphs of the whole server, and count its system calls, under small posts; ONLY=TEXT chooses loads
	$(BIN)/python -m benchmarks.profiling $(if $(ONLY),--only $(ONLY))

bench-peers:  ## build the servers that benchmarks compare btfeed with, from locked versions (needs Go)
	cd benchmarks/peers/bento && go build -o ../../.cache/bento .
	$(if $(wildcard benchmarks/.cache/flume/dtFlume.jar),mvn --quiet --batch-mode --file benchmarks/peers/flume.xml \
		dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/benchmarks/.cache/flume/lib)

wheel: setup  ## build a wheel with the native modules for this machine's architecture, and try it in an empty environment
	$(BIN)/python -m deploy.wheels $(shell uname -m)
	$(PYTHON) -m venv --clear build/empty
	build/empty/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-runtime.txt
	build/empty/bin/pip install --quiet --disable-pip-version-check --no-deps --no-index dist/btfeed-*$(shell uname -m).whl
	cd build && env PATH=/usr/bin:/bin empty/bin/python ../tests/system/wheel.py ../examples/posts/mixed.btposts

wheels: setup  ## build wheels for x86-64 and for aarch64
	$(BIN)/python -m deploy.wheels x86_64 aarch64

bundle: wheel  ## build an archive that installs btfeed without network
	$(BIN)/python -m deploy.bundle.make

deb: wheel  ## build a Debian package for this Debian
	$(BIN)/python -m deploy.debian.make

test-packages: wheels bundle deb  ## build all packages, and install, upgrade and remove them, each in a place of its own, in minutes
	$(BIN)/pytest -m packages

clean:  ## remove everything that the other targets created, except btfeed-data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info tests/servers/.cache \
		benchmarks/.cache native/target btfeed/_native*.so sinks/_messages*.so
