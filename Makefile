# `make demo` and `make test` do all of their own set-up and are quick the second time. See docs/running.md.

.DEFAULT_GOAL := help
.PHONY: help demo test check lint clean

# Arguments for `headrace demo`, e.g. make demo ARGS="--documents 5000 --port 9000"
ARGS ?=
# The whole set if it is there, else the small one (which has no test tools)
BIN = $(if $(wildcard .venv-full/bin/pytest),.venv-full/bin,.venv/bin)

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo:  ## set up (without torch) and run everything on this machine, fed with real text
	@deploy/setup.sh demo
	@exec .venv/bin/headrace demo $(ARGS)

test:  ## set up the whole set and the test services, then do what `check` does
	@deploy/setup.sh test
	@deploy/setup.sh services
	@$(MAKE) --no-print-directory check

check: lint  ## what CI runs: format, lint, types, tests
	@echo "▸ pytest" && exec $(BIN)/pytest

lint:  ## format, lint and types only
	@echo "▸ ruff format, ruff check, mypy"
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

clean:  ## remove environments, caches and local data (not the jars in ~/.cache/headrace)
	rm -rf .venv .venv-full .cache .headrace .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# --- benchmarks
