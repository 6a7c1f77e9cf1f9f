# `make demo` and `make test` each do all set-up themselves; a second call does not install again.
PYTHON ?= python3
FUZZ_SECONDS ?= 180
VENV := .venv
BIN := $(VENV)/bin
# One process per core; the tests of one file share a process, and with it their fixtures.
PYTEST := $(BIN)/python -m pytest -q --numprocesses auto --dist loadfile
STAMP := $(VENV)/.installed
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
	--custom-compile-command "make requirements" pyproject.toml

.PHONY: demo test check docs lint bench gpu fuzz serve requirements clean

$(STAMP): requirements-dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Plumbline needs Python >= 3.11, this is " + sys.version.split()[0] + "; call make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	# Compiled here, since a start without byte code compiles all of torch, every time where none can be written.
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements-dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: $(STAMP)
	$(BIN)/plumbline demo

test: $(STAMP) lint
	$(PYTEST)

# What to run before each commit: everything but the slow tests.
check: $(STAMP) lint
	$(PYTEST) -m "not slow"

# The documentation site in site/; a broken link is an error.
docs: $(STAMP)
	$(BIN)/mkdocs build --strict

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks all

# At most eight minutes on a machine with a CUDA device.
gpu: $(STAMP)
	$(BIN)/python -m benchmarks speed.gpu

# About five minutes: FUZZ_SECONDS of hostile input, then a minute or two of faults, all against servers on loopback.
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

serve: $(STAMP)
	$(BIN)/plumbline demo --serve

# Pin the dependencies again: all, those to serve, and those to develop.
requirements: $(STAMP)
	$(COMPILE) --extra attacks --extra onnxruntime --extra openvino --extra report --extra train --output-file requirements.txt
	$(COMPILE) --extra onnxruntime --output-file requirements-serve.txt
	$(COMPILE) --extra dev --output-file requirements-dev.txt

clean:
	rm -rf $(VENV) demo site
