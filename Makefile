# make demo       run all stages on three of the demo's small models, on a CPU
# make demo-full  run all stages on all nine of them
# make demo-mix   train models on other mixes of languages and compare them (an hour and a half)
# make test       run all tests
# make lint       check style and types
# make stress     kill, interrupt and race runs, fill the disk, and read fuzzed and hostile files, with full counts
# make bench      measure speed on this machine
# Each target sets up the environment .venv first if it is missing or out of date.

PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo demo-full demo-mix test lint stress bench

.venv: .venv/installed

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or later is required: choose one, e.g. make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: .venv/installed
	@$(BIN)/python demo/pocket/run.py

demo-full: .venv/installed
	@$(BIN)/python demo/pocket/run.py --full

demo-mix: .venv/installed
	@$(BIN)/python demo/pocket/mix.py

# Two workers with one thread each: the models of the tests are too small to gain from more threads.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

stress: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/stress

bench: .venv/installed
	PYTHONPATH=. $(BIN)/python tests/bench.py
