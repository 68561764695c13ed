# The only list of commands: people, hooks and CI use it. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo test coverage check format kills archives api workers logins faults planted chaos bench whale lock clean

UV := .tools/bin/uv
BIN := .venv/bin
SPECTRAL := tests/spectral/node_modules/.package-lock.json

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.complete ## make .venv with the console scripts in it

demo: setup ## everything on this machine, with a simulated Allegro; ONCE=1 ends after the proof
	$(BIN)/python demo/story.py $(if $(ONCE),--once)

test: check $(SPECTRAL) ## every check and every test
	$(BIN)/pytest --quiet --numprocesses=4 --no-loadscope-reorder

coverage: setup $(SPECTRAL) ## every test, and which lines none of them ran
	$(BIN)/pytest --quiet --numprocesses=4 --no-loadscope-reorder --cov --cov-report=term

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

archives: setup ## 200 kills of a worker that writes an archive, and no manifest names a bad file; KILLS=… for another number
	BACKUP_KILLS=$(or $(KILLS),200) $(BIN)/pytest -q tests/backups/test_kills.py --timeout 3600

chaos: setup ## the campaign of all faults: FAULTS=300 in at most 45 minutes; SEED=… repeats one, BROKER=rabbitmq
	FAULTS=$(or $(FAULTS),300) SEED=$(or $(SEED),1) CHAOS_BROKER=$(or $(BROKER),valkey) \
		$(BIN)/pytest -q -s tests/faults/test_chaos.py

api: setup ## Schemathesis over the live API at full length; SEED=… repeats one
	SCHEMATHESIS_EXAMPLES=50 SCHEMATHESIS_PHASES=examples,coverage,fuzzing,stateful $(if $(SEED),SCHEMATHESIS_SEED=$(SEED)) $(BIN)/pytest -q -s tests/rest/test_openapi.py --timeout 3600

workers: setup ## workers, schedulers and brokers that die, freeze and forget, at full length on Valkey, Redis and RabbitMQ; 15 minutes
	WORKERS=full $(BIN)/pytest -q -s tests/journeys/test_workers.py

logins: setup ## 1,000 killed refreshes and other faults, and no login lost; SEED=… repeats one
	LOGINS=1000 $(if $(SEED),LOGINS_SEED=$(SEED)) $(BIN)/pytest -q tests/logins

faults: setup ## the deterministic campaign: 5,000 seeds of faults in process, and a crash at every boundary; SEED=… repeats one
ifdef SEED
	$(BIN)/python -m tests.campaign --seed $(SEED)
else
	$(BIN)/python -m tests.campaign --seeds $(or $(SEEDS),5000)
	CAMPAIGN_EVERY=1 CAMPAIGN_EXAMPLES=200 CAMPAIGN_STEPS=30 $(BIN)/pytest -q tests/campaign --timeout 3600 \
		-k "boundary or any_order"
endif

planted: setup ## prove the campaign: each planted bug is put into a copy of the source and has to be found
	$(BIN)/python -m tests.campaign.plant

bench: setup ## the benchmarks; each prints JSON with a ratio
	$(BIN)/python -m bench.run
	$(BIN)/python -m bench.webhooks
	$(BIN)/python -m bench.feed

whale: setup ## one huge seller beside 300 small ones under an enforced limit; prints JSON; at most 12 minutes
	$(BIN)/python -m bench.whale

$(UV):
	python3 -m pip install --quiet --disable-pip-version-check --target .tools 'uv==0.13.9'

.venv/.complete: requirements.lock pyproject.toml $(UV)
	$(UV) venv --quiet --allow-existing --python python3 .venv
	$(UV) pip sync --quiet --require-hashes --python .venv requirements.lock
	$(UV) pip install --quiet --no-deps --no-build-isolation --python .venv --editable .
	@touch $@

$(SPECTRAL): tests/spectral/package-lock.json
	@command -v npm > /dev/null || { echo "The tests need Node.js with npm, for the linter of the OpenAPI document."; exit 1; }
	npm ci --silent --prefer-offline --no-audit --no-fund --prefix tests/spectral
	@touch $@

lock: $(UV) ## pin every package again, by hash, from pyproject.toml
	$(UV) pip compile --quiet --universal --generate-hashes --extra embedded --extra parquet --extra traces --group dev \
		--python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header \
		pyproject.toml --output-file requirements.lock

clean: ## remove what setup and tests made
	rm -rf .venv .tools tests/spectral/node_modules .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
