# The only list of commands: people, hooks and CI use it. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check format kills chaos bench lock clean

UV := .tools/bin/uv
BIN := .venv/bin

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.complete ## make .venv with the console scripts in it

demo: setup ## everything on this machine, with a simulated Allegro; ONCE=1 ends after the proof
	$(BIN)/python demo/story.py $(if $(ONCE),--once)

test: check ## every check and every test
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: setup ## the fast part: format, lint, types, imports
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup ## format and mend what can be mended
	$(BIN)/ruff format --quiet
	$(BIN)/ruff check --fix --quiet

kills: setup ## the whole kill campaign: 20 kills each of worker, scheduler and PostgreSQL; SEED=… repeats one
	KILLS=20 $(if $(SEED),KILL_SEED=$(SEED)) $(BIN)/pytest -q tests/faults/test_kills.py

chaos: setup ## the campaign of all faults: FAULTS=300 in at most 45 minutes; SEED=… repeats one, BROKER=rabbitmq
	FAULTS=$(or $(FAULTS),300) SEED=$(or $(SEED),1) CHAOS_BROKER=$(or $(BROKER),valkey) \
		$(BIN)/pytest -q -s tests/faults/test_chaos.py

bench: setup ## the benchmarks; each prints JSON with a ratio
	$(BIN)/python -m bench.run

$(UV):
	python3 -m pip install --quiet --disable-pip-version-check --target .tools 'uv==0.13.9'

.venv/.complete: requirements.lock pyproject.toml $(UV)
	$(UV) venv --quiet --allow-existing --python python3 .venv
	$(UV) pip sync --quiet --require-hashes --python .venv requirements.lock
	$(UV) pip install --quiet --no-deps --no-build-isolation --python .venv --editable .
	@touch $@

lock: $(UV) ## pin every package again, by hash, from pyproject.toml
	$(UV) pip compile --quiet --universal --generate-hashes --extra embedded --group dev \
		--python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header \
		pyproject.toml --output-file requirements.lock

clean: ## remove what setup and tests made
	rm -rf .venv .tools .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
