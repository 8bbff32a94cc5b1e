# Two commands do the main things: `make demo` and `make test`. Each sets up what it needs and may be run twice.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.fathom-setup
PROJECTS := $(wildcard client/pyproject.toml server/pyproject.toml export/pyproject.toml loadtest/pyproject.toml synth/pyproject.toml)
PACKAGES := client/fathom_client server/fathom_server export/fathom_export loadtest/fathom_loadtest synth/fathom_synth deploy/chart deploy/compose deploy/images deploy/observability

.PHONY: help setup demo test check format clean bench bench-quality

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## Make .venv with all five distributions, their extras and the development tools

$(STAMP): constraints.txt pyproject.toml $(PROJECTS)
	@echo "== setting up $(VENV) (a few minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Fathom needs Python 3.11 to 3.13; set PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable client \
		--editable 'server[cpu,embedded,gateway,otel]' \
		--editable 'export[torch]' --editable loadtest --editable synth --group dev
	@touch $@

demo: setup ## Export the demo's models, serve, embed, generate and load-test them
	@$(BIN)/python examples/demo.py

test: setup ## Run all tests against a real embedded Triton, two files at a time
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: setup ## Lint, format, types, and what is generated of the chart
	@echo "== ruff"; $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "== mypy"; $(BIN)/mypy $(PACKAGES)
	@echo "== dashboards and rules"; $(BIN)/python -m deploy.observability --check
	@echo "== chart"; $(BIN)/python -m deploy.chart --check
	@echo "== compose"; $(BIN)/python -m deploy.compose check

bench: setup ## Measure speed beside other engines and quality in every precision; redraws docs (an hour; more the first time)
	@$(BIN)/python -m benchmarks.peers
	@$(BIN)/python -m benchmarks.quality

bench-quality: setup ## Judge our models in every precision; redraws docs/quality.md and docs/quality.svg
	@$(BIN)/python -m benchmarks.quality

format: setup ## Format the code and mend what ruff can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean: ## Remove what the tools made, but not .venv
	@rm -rf reports .fathom .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find model_repository -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
