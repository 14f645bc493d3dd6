# Everything from a fresh checkout: `make run` starts a node, `make test` runs the tests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
STAMP := $(VENV)/.set-up
ARGS ?=

.PHONY: run test lint bench demo manual clean set-up

set-up: $(STAMP)

# What a node needs; tests need more.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11; install a newer Python, or name one: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "Python's venv module is missing: sudo apt-get install python3-venv"; exit 1; }
	@echo "setting up $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(STAMP): $(INSTALLED)
	@echo "setting up the tools of its developers ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

# Without the right to open a TUN device the node relays and answers for its key.
run: $(INSTALLED)
	@if $(BIN)/python -m septate.rights; then exec $(BIN)/septate $(ARGS); else exec $(BIN)/septate --no-tun $(ARGS); fi

# Groups side by side: one computes, with the coverage of protocol/; the others wait for processes and nodes, mostly.
GROUPS := test-computing test-processes test-nodes-a-n test-nodes-o-z
.PHONY: $(GROUPS)

test-computing:
	@$(BIN)/python -m coverage run -m pytest tests/unit tests/simulation tests/bench

test-processes:
	@$(BIN)/python -m pytest tests/runtime tests/lab

test-nodes-a-n:
	@$(BIN)/python -m pytest $(sort $(wildcard tests/namespaces/test_[a-n]*.py))

test-nodes-o-z:
	@$(BIN)/python -m pytest $(sort $(wildcard tests/namespaces/test_[o-z]*.py))

test: $(STAMP)
ifeq ($(ARGS),)
	@$(MAKE) --no-print-directory --keep-going --jobs=4 --output-sync=target $(GROUPS); ran=$$?; \
	$(BIN)/python -m coverage report; covered=$$?; \
	exit $$((ran | covered))
else
	@$(BIN)/python -m pytest $(ARGS)
endif

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(STAMP)
	@$(BIN)/python -m bench.run $(ARGS)

demo: $(STAMP)
	@$(BIN)/python -m bench.demo $(ARGS)

# Completions, man page and the made parts of docs/cli.md, from the command line itself.
manual: $(STAMP)
	@$(BIN)/python -m manual

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
