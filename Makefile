# The only entry points; CI runs what a person runs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: help install demo run test check fix chaos bench image verify-image verify-compose clean

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
	$(BIN)/python -m pytest -q tests/test_architecture.py

fix: install     ## What the tools can mend by themselves.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

ROUNDS ?= 30
chaos: install   ## The long proofs: kills, random worlds, very many messages: make chaos ROUNDS=100 TRIALS=50.
	CHAOS_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest -q -s tests/test_chaos.py tests/one_second.py \
		tests/million_backfill.py tests/verify_100k.py tests/random_trials.py

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
