# Every command sets itself up: the environment is made from constraints.txt the first time it is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := dev,hf,generative
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
# uv does not read pip's find-links; where pip was told of local wheels, tell uv too.
export UV_FIND_LINKS := $(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))

.PHONY: help venv run test test-slow bench check fix constraints clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/'

venv: $(VENV)/.ready  ## make the environment from constraints.txt

$(VENV)/.ready: pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(VENV)
	@# uv installs several times faster; pip alone is enough where uv cannot be had.
	if $(BIN)/pip install -q -c constraints.txt uv 2>/dev/null; then \
	  $(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[$(EXTRAS)]'; \
	else \
	  $(BIN)/pip install -q -c constraints.txt -e '.[$(EXTRAS)]'; \
	fi
	touch $@

run: venv  ## the main job: digits, 28 to 1 a class, cheap arms and three diffusion models, a verdict and a report
	$(BIN)/counterpoise run digits --recipe balanced_diffusion --cut exp:30:top=30:shuffled --pool 0.45 --no-flip \
	  --fit-steps 1500 --to runs/digits

test: venv  ## the suite (no slow tests)
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-slow: venv  ## the slow proofs
	$(BIN)/python -m pytest -m "slow and not gpu"

bench: venv  ## every benchmark; writes the table of docs/results.md
	$(BIN)/python -m bench

check: venv  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py tests/test_docs.py

fix: venv  ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

constraints:  ## renew the pins (torch stays at the newest release with a CPU build)
	echo 'torch==2.13.0' | uv pip compile --universal --no-header --no-annotate --python-version 3.11 \
	  --extra hf --extra generative --extra hub-data --extra dev -c - pyproject.toml -o constraints.txt

clean:  ## remove the environment (never a run)
	rm -rf $(VENV)
