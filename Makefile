# The only entry points; CI runs what a person runs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: help install demo run test check fix mutants chaos bench image verify-image verify-compose clean

help:            ## This list.
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed   ## Make .venv with the package and its tools in it.

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -q publisher   # also where the environment forbids it: starts faster
	@touch $@

demo: install    ## Kafka + simulated API + publisher + a consumer that prints events; Ctrl-C ends it.
	@$(BIN)/python -m sandbox.demo

run: install     ## The publisher alone, with the settings of the environment.
	@$(BIN)/wolkvox-publisher run

test: install    ## The whole suite: real Kafka, real HTTP, real processes, real kills.
	$(BIN)/python -m pytest

check: install   ## Formatting, lint, types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

fix: install     ## What the tools can mend by themselves.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

mutants: install  ## Make one line after the other wrong: a test must notice each (WORDS=quota: only those).
	$(BIN)/python -m tests.mutants --kafka $(WORDS)

ROUNDS ?= 30
FAULTS ?= 60
chaos: install   ## The long proofs: kills, brokers, random worlds: make chaos ROUNDS=100 FAULTS=60 TRIALS=50.
	CHAOS_ROUNDS=$(ROUNDS) FAULTS=$(FAULTS) LATE_TRANSACTIONS=1000 LATE_BROKERS=1,3 \
		$(BIN)/python -m pytest -q -s tests/test_chaos.py tests/test_brokers.py tests/test_late_requests.py \
		tests/one_second.py tests/million_backfill.py tests/verify_100k.py tests/random_trials.py

bench: install   ## The publisher beside a floor and a naive script, its steps, the ledger at 10 million ids.
	$(BIN)/python -m benchmarks.flood
	$(BIN)/python -m benchmarks.steps
	$(BIN)/python -m benchmarks.ledger

image:           ## The container image, as wolkvox-publisher.
	docker build --tag wolkvox-publisher .

verify-image: install   ## Build the image and prove it on a real engine, against a real Kafka.
	deploy/verify-image.sh

verify-compose: install  ## Run docker-compose.yml on a real engine, and kill what runs in it.
	deploy/verify-compose.sh

clean:           ## Remove what install, tests and demo made.
	rm -rf $(VENV) .cache build dist *.egg-info
