# make demo   the pipeline on three of the demo's small models, on a CPU
# make demo-full  on all nine; make demo-mix  other mixes of languages, trained anew (an hour and a half)
# make test   all tests
# make lint   style and types
# make stress runs killed, raced and out of disk, files fuzzed and hostile, in full counts
# make bench  speed as ratios, on this machine
# Each makes the environment .venv first, once.

PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo demo-full demo-mix test lint stress bench

.venv: .venv/installed

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name one: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: .venv/installed
	@$(BIN)/python demo/run.py

demo-full: .venv/installed
	@$(BIN)/python demo/run.py --full

demo-mix: .venv/installed
	@$(BIN)/python demo/mix.py

# Two workers of one thread each: the tests' models are too small for more to pay.
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
