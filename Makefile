# What a developer runs by name. The virtual environment is made as README.md says.

PYTHON ?= .venv/bin/python

.PHONY: bench demo

bench: ## Septate and its peers side by side; BENCH="--quick" for a short run
	$(PYTHON) -m bench.run $(BENCH)

demo: ## kill every actor of a relay under a 10 ms ping
	$(PYTHON) -m bench.demo
