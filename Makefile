# make train   from nothing to a trained model: environment, installation, training on the embedded corpus, report
# make test    install the developer tools and run every test
# The environment lives in .venv; another one: make test VENV=/somewhere/else. Another Python: make train PYTHON=python3.12

VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2

ifndef PYTHON
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do \
  if $$p -c 'import sys, ensurepip, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' 2>/dev/null; then \
    echo $$p; exit; fi; done; echo python3)
endif

.PHONY: train test lint format types floors bench wheel clean help
.DEFAULT_GOAL := help

help:
	@echo "make train    create $(VENV), install, train on the embedded corpus (about three minutes), write a report"
	@echo "make test     create $(VENV), install the developer tools, run every test"
	@echo "make lint     ruff: style and formatting        make format   let ruff mend both"
	@echo "make types    mypy --strict on src              make floors   import-linter: imports go downward only"
	@echo "make bench    every benchmark in benchmarks/    make wheel    build dist/*.whl"
	@echo "make clean    remove $(VENV), caches and builds (never runs/ or corpora/)"

train: $(VENV)/.installed-report
	$(BIN)/overnight train builtin $(ARGS)

# One thread a worker: two workers with two threads each would fight for two cores.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

floors: $(VENV)/.installed-dev
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	@set -e; for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file; done

wheel: $(VENV)/.installed-dev
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c '' 2>/dev/null || { echo "$(PYTHON) was not found: install Python 3.10 or newer, or name one, as in: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is $$($(PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null), and overnight needs Python 3.10 or newer: install one, or name it, as in: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot create environments: install its venv module (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV) || { rm -f $@; exit 2; }

$(VENV)/.installed-report: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,report)

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,dev)

# On Linux torch's default wheels bring about 3 GB of CUDA libraries. Where its CPU build is wanted, give the package index
# that has it (pytorch.org names it): make train TORCH_INDEX=URL, or pip's own PIP_EXTRA_INDEX_URL.
# A Python newer than the pins gets the newest releases instead.
define install
@set -e; \
pins="-c constraints.txt"; \
$(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 15))' || pins=""; \
if [ -t 1 ]; then quiet=""; else quiet="--quiet"; fi; \
echo "Installing overnight[$(1)] into $(VENV) (once; torch is the large one)"; \
$(BIN)/python -m pip install $$quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") $$pins -e ".[$(1)]"; \
touch $(VENV)/.installed-$(1)
endef
