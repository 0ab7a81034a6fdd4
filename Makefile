# Everything a developer or a first-time user runs. Needs Python 3.11 to 3.13 and nothing else.
# No options that only GNU tools know: it runs with the make, awk and bash of macOS as well.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
# Errors only: indexes that lack a package are no news, the hashes decide.
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
PROTOS := $(wildcard protos/junctor/v1/*.proto)

.PHONY: help up setup setup-dev test lint format proto proto-check proto-baseline lock wheel interop alerts chromium check bench sbom clean

help:  ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  ARGS=…    options for what runs:   make up ARGS='--port 9000 --no-detect'"
	@echo "                                     make test ARGS='tests/unit -k filters'"
	@echo "  PYTHON=…  makes $(VENV) with it:    make up PYTHON=python3.13"

up: setup  ## Install what is needed and start everything in one process; options in ARGS
	@$(BIN)/junctor up $(ARGS)

setup: $(VENV)/.server  ## Install junctor and what it runs on, from the lock
setup-dev: $(VENV)/.dev  ## The same, and what the tests need

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "junctor needs Python 3.11 to 3.13: make up PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "junctor needs Python 3.11 to 3.13, and $(PYTHON) is not: make up PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Setting up $(VENV) (once, about a minute) …"
	@"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(VENV)/.server: requirements.lock pyproject.toml | $(VENV)/.python
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(VENV)/.python
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $(VENV)/.server $@

test: setup-dev  ## Install what is needed and run the tests; options for pytest in ARGS
	@bash tests/run.sh $(BIN)/python $(ARGS)

lint: setup-dev  ## Style, types, layers, protos
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/buf lint

format: setup-dev  ## Put the sources into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

proto: setup-dev  ## Generate the stubs from protos/
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos \
	  --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. $(PROTOS)

proto-check: setup-dev  ## Fail when the committed stubs are not what protos/ gives, or a change breaks callers
	@bash tests/compat/stubs_drift.sh $(BIN)
	@bash tests/compat/buf_breaking.sh $(BIN)/buf

proto-baseline: setup-dev  ## Take the image that later changes to protos/ are held against
	@$(BIN)/buf build --exclude-source-info -o tests/compat/landed_protos.binpb

interop: setup  ## Compile the protos and a client in Go, and run it (Debian's Go packages)
	@bash tests/compat/interop.sh $(BIN)

alerts:  ## Check the alerting rules with promtool (Debian's package prometheus)
	@bash tests/compat/promtool.sh

chromium:  ## Install what the tests of the console look with (Debian's package chromium)
	@bash tests/console/chromium.sh

wheel: setup-dev  ## Build the wheel into dist/
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist .

check: lint proto-check test  ## What has to pass before a change lands

bench: setup  ## Measure junctor beside nginx and Envoy (six minutes); options in ARGS
	@$(BIN)/python -m benchmarks.inference $(ARGS)

lock: setup-dev  ## Write the locks anew from pyproject.toml
	@bash deploy/lock.sh $(BIN)

sbom: setup  ## Write what the server is made of (CycloneDX) to dist/sbom.cdx.json
	@mkdir -p dist
	@$(BIN)/python deploy/sbom.py > dist/sbom.cdx.json

clean:  ## Remove what was installed and built
	@rm -rf $(VENV) dist build *.egg-info
