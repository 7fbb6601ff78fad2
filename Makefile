# `make demo` and `make test` do all of their own set-up and are quick the second time. See docs/running.md.

.DEFAULT_GOAL := help
.PHONY: help demo test check check-jaeger jaeger lint soak soak-shard clean

# Arguments for `headrace demo` and others, e.g. make demo ARGS="--documents 5000 --port 9000"
ARGS ?=
# The whole set if it is there, else the small one (which has no test tools)
BIN = $(if $(wildcard .venv-full/bin/pytest),.venv-full/bin,.venv/bin)

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo:  ## set up (without torch) and run everything on this machine, fed with real text
	@deploy/setup.sh demo
	@exec .venv/bin/headrace demo $(ARGS)

test:  ## set up the whole set and the test services, then do what `check` does
	@deploy/setup.sh test
	@deploy/setup.sh services
	@$(MAKE) --no-print-directory check

check: lint  ## what CI runs: format, lint, types, tests
	@echo "▸ pytest" && exec $(BIN)/pytest

jaeger:  ## a real Jaeger on this machine, without Docker; the first time it is built (7 minutes)
	@deploy/setup.sh jaeger
	@[ -x $(BIN)/python ] || deploy/setup.sh demo
	@exec $(BIN)/python -m app.local.jaeger

check-jaeger:  ## the tests that read traces back from a real Jaeger, built if need be
	@deploy/setup.sh test
	@deploy/setup.sh services
	@deploy/setup.sh jaeger
	@exec .venv-full/bin/pytest -m jaeger

lint:  ## format, lint and types only
	@echo "▸ ruff format, ruff check, mypy"
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

# Seconds for `make soak` and `make soak-shard`; or, for the first, FAULTS=1000
SOAK_S ?= 600
FAULTS ?=
soak:  ## break everything at random for ten minutes, or SOAK_S=… seconds, or FAULTS=…; then compare every document
	@deploy/setup.sh test
	@$(BENCH_SERVICES)
	@exec $(BIN)/python -m bench.soak --seconds $(SOAK_S) $(if $(FAULTS),--faults $(FAULTS)) $(ARGS)

soak-shard:  ## one shard under every kind of thread for ten minutes, or SOAK_S=… seconds
	@deploy/setup.sh test
	@HEADRACE_SOAK_S=$(SOAK_S) exec $(BIN)/pytest tests/unit/shard/test_threads.py -k for_as_long

clean:  ## remove environments, caches and local data (not the jars in ~/.cache/headrace)
	rm -rf .venv .venv-full .cache .headrace .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# --- benchmarks
.PHONY: bench-pipeline bench-freshness bench-search bench-embed bench-chunks bench-history bench-shard bench-keyword \
  bench-vectors bench-libraries bench-transactions bench-staleness bench-tracing
# Java, Maven and a Redis are got only where one is missing: `services` installs more than a benchmark needs
BENCH_SERVICES = command -v java mvn redis-server >/dev/null 2>&1 || deploy/setup.sh services
BENCH_SET = $(if $(wildcard .venv-full/bin/pytest),test,demo)

bench-pipeline:  ## documents/s through everything, against the bare model (3-6 minutes; needs torch)
	@deploy/setup.sh test
	@$(BENCH_SERVICES)
	@exec .venv-full/bin/python -m bench.pipeline $(ARGS)

bench-freshness:  ## source event → first query that returns it, quiet and under load (5 minutes)
	@deploy/setup.sh $(BENCH_SET)
	@$(BENCH_SERVICES)
	@exec $(BIN)/python -m bench.freshness $(ARGS)

bench-staleness:  ## staleness as answers report it against what a prober knows, under load and under every fault (6 minutes)
	@deploy/setup.sh $(BENCH_SET)
	@$(BENCH_SERVICES)
	@exec $(BIN)/python -m bench.staleness $(ARGS)

bench-tracing:  ## what traces and probes cost: none, the default, all (12 minutes)
	@deploy/setup.sh $(BENCH_SET)
	@$(BENCH_SERVICES)
	@exec $(BIN)/python -m bench.tracing_cost $(ARGS)

bench-search:  ## what a search costs at the gateway, alone and beside ingest (3 minutes)
	@deploy/setup.sh $(BENCH_SET)
	@$(BENCH_SERVICES)
	@exec $(BIN)/python -m bench.search $(ARGS)

bench-embed:  ## texts/s and query times against bare sentence-transformers, bare OpenVINO and the machine's limit (10 minutes)
	@deploy/setup.sh test
	@$(BENCH_SERVICES)
	@exec .venv-full/bin/python -m bench.embed $(ARGS)

bench-chunks:  ## what an edit of one sentence embeds again, beside the usual recursive splitter (3 minutes)
	@deploy/setup.sh test
	@$(BENCH_EXTRAS)
	@exec .venv-full/bin/python -m bench.chunks $(ARGS)

bench-history:  ## model calls and seconds that caches and chunks save on the history of real documentation (10 minutes)
	@deploy/setup.sh test
	@$(BENCH_EXTRAS)
	@exec .venv-full/bin/python -m bench.history $(ARGS)

bench-shard:  ## one shard of 100,000 chunks beside bare hnswlib: inserts, searches, filters, churn, restart (10 minutes)
	@deploy/setup.sh $(BENCH_SET)
	@exec $(BIN)/python -m bench.shard $(ARGS)

bench-keyword:  ## the keyword index (tantivy) beside SQLite FTS5 over the same chunks (2 minutes)
	@deploy/setup.sh $(BENCH_SET)
	@exec $(BIN)/python -m bench.keyword $(ARGS)

bench-transactions:  ## a Kafka transaction a batch against confirmed records (1 minute)
	@deploy/setup.sh $(BENCH_SET)
	@$(BENCH_SERVICES)
	@exec $(BIN)/python -m bench.transactions $(ARGS)

bench-vectors:  ## embed a million short texts for the benchmarks of graphs (an hour on 2 cores; ARGS="--count 100000")
	@deploy/setup.sh test
	@exec .venv-full/bin/python -m bench.vectors $(or $(ARGS),--count 1000000)

# The other libraries are for this alone, so no other set has them
UV = $(or $(shell command -v uv),.cache/uv/bin/uv)
BENCH_EXTRAS = .venv-full/bin/python -c 'import faiss, langchain_text_splitters, usearch' 2>/dev/null || \
  $(UV) pip install --python .venv-full/bin/python -c constraints.txt -r pyproject.toml --extra bench
bench-libraries:  ## hnswlib, faiss and usearch bare, and structures around hnswlib (8 minutes and the embedding)
	@deploy/setup.sh test
	@$(BENCH_EXTRAS)
	@exec .venv-full/bin/python -m bench.libraries $(ARGS)
