# The one list of commands. `make help` tells what they do. All work in .venv, which is made when it is
# missing and again when what it must hold has changed.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CODE := dostore tests twisted benchmarks docs deploy
UNIT := $(patsubst tests/%.py,tests.%,$(wildcard tests/test_*.py)) \
	tests.http tests.service tests.adapters tests.web tests.app tests.client
COVERAGE := $(BIN)/python -m coverage
TRIAL := $(BIN)/python -m twisted.trial --temp-directory=.cache/trial

.PHONY: help run demo cluster servers test test-unit lint types docs wheel bench bench-tables clean

help: ## what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

$(READY): setup.cfg pyproject.toml requirements/constraints.txt requirements/make-venv
	@requirements/make-venv $(VENV)
	@touch $@

run: $(READY) ## start the store: make run LISTEN_ADDRESS=127.0.0.1:12345 STORAGE_ROOT=data
	@exec $(BIN)/twistd -n --pidfile= dostore-api

demo: $(READY) ## a tour with real files, in a temporary folder
	@$(BIN)/python -m docs.tour

cluster: $(READY) ## a cluster of eight servers on this machine, in the foreground, in ./cluster-data
	@requirements/get-rabbitmq
	@requirements/get-elasticsearch
	@exec $(BIN)/python -m deploy.cluster

servers: ## what the tests start besides dostore: got once, kept in .cache
	@requirements/get-rabbitmq
	@requirements/get-elasticsearch elasticsearch opensearch

test: $(READY) servers ## every test; every branch of dostore/core is taken by the tests of core
	@failed=; \
	$(BIN)/python -m tests || failed=1; \
	$(COVERAGE) report --include='dostore/core/*' --fail-under=100 || failed=1; \
	test -z "$$failed"

test-unit: $(READY) ## the quick tests, which start no store: seconds
	@mkdir -p .cache
	@DOSTORE_TEST_QUICK=1 $(TRIAL) tests.core $(UNIT)

lint: $(READY) ## ruff: rules and format
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)

types: $(READY) ## mypy, strict
	@mkdir -p .cache
	@$(BIN)/mypy $(CODE)

docs: $(READY) ## every .rst is well-formed and its links lead somewhere
	@$(TRIAL) tests.test_docs

wheel: $(READY) ## dist/dostore-*.whl
	@rm -rf build dist
	@PIP_CONSTRAINT=requirements/constraints.txt $(BIN)/python -m pip wheel -q --no-deps -w dist .
	@rm -rf build
	@ls dist

bench: $(READY) ## speed, beside what the same machine does bare; BENCH="--only put-4k-16" for a part
	@requirements/get-rabbitmq
	@requirements/get-elasticsearch
	@$(BIN)/python -m benchmarks $(BENCH)

bench-tables: $(READY) ## the tables of README.rst and docs/performance.rst from what was measured last
	@$(BIN)/python -m benchmarks.document .cache/benchmarks.json README.rst docs/performance.rst

clean: ## all that was made, except STORAGE_ROOT and cluster-data
	@rm -rf $(VENV) .cache build dist *.egg-info .hypothesis _trial_temp* twisted/plugins/dropin.cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
