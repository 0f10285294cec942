# The targets that people and CI call. Every one of them sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
CARGO := $(shell command -v cargo)
CRATES := $(shell find native -name target -prune -o -type f \( -name '*.rs' -o -name Cargo.toml \) -print)
WHY_PLAIN := $(if $(CARGO),cargo could not: try cargo build --manifest-path native/Cargo.toml,cargo is not here)
SANITIZED := cd native && MUTATIONS=2000000 SEED=$$(date +%s) RUSTFLAGS='-Zsanitizer=address -Cdebug-assertions' \
	cargo +nightly test --quiet --release -p transcoder --test mutations --target $$(rustc -vV | sed -n 's/host: //p')
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: help setup run test test-native chaos lint docs proto lock bench bench-full bench-compare bench-peers wheel clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: .venv/ready .venv/btfeed  ## the virtual environment, from locked versions with hashes, and the native modules

.venv/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("btfeed needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear .venv
	$(PIP_INSTALL) --require-hashes --no-deps -r requirements.txt
	@touch $@

.venv/btfeed: .venv/ready pyproject.toml $(CRATES)
	@rm -f btfeed/_native*.so sinks/_messages*.so
	$(PIP_INSTALL) -q --no-build-isolation --no-deps --editable .
	@$(BIN)/python -c 'import btfeed._native' 2>/dev/null && echo 'native transcoder: built' || \
		echo 'native transcoder: not built, the plain path runs; $(WHY_PLAIN)'
	@$(BIN)/python -c 'import sinks._messages' 2>/dev/null && echo 'native messages to Kafka: built' || \
		echo 'native messages to Kafka: not built, the plain path runs; $(WHY_PLAIN)'
	@touch $@

run: setup  ## start the server, post to it what a web shop's AppMon would, show the records
	$(BIN)/python examples/first_run.py

test: setup lint  ## everything, real clients and servers included
	tests/servers/java
	tests/servers/elasticsearch
	$(if $(CARGO),cd native && cargo test --quiet --workspace)
	tests/servers/kafka-install
	$(BIN)/pytest -n 2 --dist loadgroup

test-native: setup  ## the native transcoder against its plain twin, 200,000 cases, and with AddressSanitizer
	$(BIN)/python -m tests.records.twins
	@if cargo +nightly --version >/dev/null 2>&1; then $(SANITIZED); else echo 'AddressSanitizer needs a nightly toolchain.'; fi

chaos: setup  ## the tests of faults that take minutes
	tests/servers/elasticsearch
	$(BIN)/pytest -m chaos

lint: setup  ## style, types, the direction of imports, generated code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --check
	$(BIN)/python -m docs.generate --check
	$(if $(CARGO),cd native && cargo fmt --all --check && cargo clippy --quiet --workspace --all-targets -- -D warnings)

docs: setup  ## the tables in docs/ and README.md that are made from the code and the figures
	$(BIN)/python -m docs.generate

proto: setup  ## btfeed/posts/bt_pb2.py and .pyi from proto/bt.proto
	$(BIN)/python proto/generate.py

lock: setup  ## requirements.txt from pyproject.toml
	$(BIN)/pip-compile --quiet --extra dev --generate-hashes --allow-unsafe --strip-extras --no-header \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file requirements.txt pyproject.toml

bench: setup  ## what an occurrence costs, in minutes: table, pictures and page in benchmarks/results/latest
	$(BIN)/python -m benchmarks run $(if $(OUT),--out $(OUT))

bench-full: setup  ## the same with all that grows, in hours
	$(BIN)/python -m benchmarks run --full

bench-compare: setup  ## the latest result beside BASE=FILE; fails where a case is worse
	$(BIN)/python -m benchmarks compare $(or $(BASE),$(error say what to compare with: make bench-compare BASE=FILE))

bench-peers:  ## build the servers that the benchmarks compare with, from locked versions (needs Go)
	cd benchmarks/peers/bento && go build -o ../../.cache/bento .

wheel: setup  ## a wheel with the native modules, tried in an empty environment
	rm -rf build dist
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist .
	$(PYTHON) -m venv --clear build/empty
	build/empty/bin/pip install --quiet --disable-pip-version-check dist/btfeed-*.whl
	cd build && env PATH=/usr/bin:/bin empty/bin/python ../tests/system/wheel.py ../examples/posts/mixed.btposts

clean:  ## remove what the others made, but for btfeed-data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info tests/servers/.cache \
		benchmarks/.cache native/target btfeed/_native*.so sinks/_messages*.so
