# The only list of commands: people, hooks and CI use it. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help setup lock demo test check bench clean

UV := .tools/bin/uv
BIN := .venv/bin
SRC := src tests demo bench migrations

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.complete ## make .venv with the console scripts in it

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
