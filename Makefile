# Everything from a fresh checkout: `make run` starts a node, `make test` runs the tests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
ARGS ?=

.PHONY: run test lint bench demo manual clean set-up

set-up: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11; install a newer Python, or name one: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "Python's venv module is missing: sudo apt-get install python3-venv"; exit 1; }
	@echo "setting up $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

# Without the right to open a TUN device the node relays and answers for its key.
run: $(STAMP)
	@if $(BIN)/python -m septate.rights; then exec $(BIN)/septate $(ARGS); else exec $(BIN)/septate --no-tun $(ARGS); fi

# Two halves side by side, for two cores: what computes, with the coverage of protocol/, and what waits for processes.
COMPUTES := tests/unit tests/simulation tests/bench
WAITS := tests/runtime tests/lab tests/namespaces

test: $(STAMP)
ifeq ($(ARGS),)
	@$(BIN)/python -m pytest $(WAITS) >.waits.log 2>&1 & waits=$$!; \
	$(BIN)/python -m coverage run -m pytest $(COMPUTES); computed=$$?; \
	wait $$waits; waited=$$?; cat .waits.log; \
	$(BIN)/python -m coverage report; covered=$$?; \
	exit $$((computed | waited | covered))
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
	rm -rf $(VENV) build dist *.egg-info .coverage .waits.log .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
