# The targets that people and CI call. Every one of them sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup run test lint docs proto lock bench clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: .venv/ready  ## the virtual environment, from locked versions with hashes

.venv/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("btfeed needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.txt
	$(BIN)/pip install -qq --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

run: setup  ## start the server, post to it what a web shop's AppMon would, show the records
	$(BIN)/python examples/first_run.py

test: setup lint  ## everything, real clients and servers included
	tests/servers/java
	$(BIN)/pytest

lint: setup  ## style, types, the direction of imports, generated code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --check
	$(BIN)/python -m docs.generate --check

docs: setup  ## the tables in docs/ that are made from the code
	$(BIN)/python -m docs.generate

proto: setup  ## btfeed/bt_pb2.py and .pyi from proto/bt.proto
	$(BIN)/python proto/generate.py

lock: setup  ## requirements.txt from pyproject.toml
	$(BIN)/pip-compile --quiet --extra dev --generate-hashes --allow-unsafe --strip-extras --no-header \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file requirements.txt pyproject.toml

bench: setup  ## what an occurrence costs at each stage and sink, and how fast posts are made and replayed
	$(BIN)/python -m benchmarks.bench_stages
	$(BIN)/python -m benchmarks.bench_bizevents
	$(BIN)/python -m benchmarks.bench_sources

clean:  ## remove what the others made, but for btfeed-data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info tests/servers/.cache
