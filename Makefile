# Voxelworks. Needs Python 3.11, 3.12 or 3.13 and make; everything else goes into .venv. `make help` lists the targets.

PYTHON_HERE := .venv/bin/python
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench bench-segments bench-inference bench-peers bench-large bench-pages test-faults test-mutation docs

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## Make .venv and install Voxelworks into it
	@tools/environment.sh

demo: ## Turn a small real image stack into a dataset, as jobs, and serve the web app (ARGS=--once: then end)
	@tools/environment.sh
	@$(PYTHON_HERE) -m voxelworks demo $(ARGS)

test: ## Run the tests, on all cores (ARGS="-k downsampling" runs some)
	@tools/environment.sh test
	@$(PYTHON_HERE) -m pytest -n auto --dist loadfile $(ARGS)

check: ## All that must hold before a change goes in: format, lint, types, import order, docs, tests
	@tools/environment.sh dev
	$(PYTHON_HERE) -m ruff format --check .
	$(PYTHON_HERE) -m ruff check .
	$(PYTHON_HERE) -m mypy src/voxelworks tools
	$(PYTHON_HERE) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
	$(PYTHON_HERE) tools/make_reference.py --check
	$(PYTHON_HERE) benchmarks/table.py --check
	$(PYTHON_HERE) tools/make_reliability_table.py --check
	$(PYTHON_HERE) tools/make_formats_table.py --check
	$(PYTHON_HERE) tools/make_models_table.py --check
	@$(MAKE) --no-print-directory test

format: ## Format the code and sort its imports
	@tools/environment.sh dev
	$(PYTHON_HERE) -m ruff check --fix --select I .
	$(PYTHON_HERE) -m ruff format .

test-faults: ## Kill workers, jobs and servers at many moments (long; `make test` has the short form)
	@tools/environment.sh test
	@VOXELWORKS_TEST_SCHEMATHESIS=$$(.ci/schemathesis) VOXELWORKS_TEST_LONG=1 $(PYTHON_HERE) -m pytest -m faults --timeout=3600 $(ARGS)

test-mutation: ## Change single things in the ledger and the job transitions: do the tests notice? (long)
	@tools/environment.sh test
	@$(PYTHON_HERE) tools/mutation.py $(ARGS)

bench: ## Measure conversion and pyramids against the simplest correct script (long)
	@tools/environment.sh test
	@$(PYTHON_HERE) benchmarks/run.py $(ARGS)

bench-inference: ## Measure whole segmentations with networks against the networks alone
	@tools/environment.sh test
	@$(PYTHON_HERE) benchmarks/inference.py $(ARGS)

bench-segments: ## Measure what is computed of segments against the simplest correct scripts
	@tools/environment.sh test
	@$(PYTHON_HERE) benchmarks/segments.py $(ARGS)

bench-peers: ## Measure other open programs beside Voxelworks (long; makes their environments below build/)
	@tools/environment.sh test
	@benchmarks/peers.sh
	@$(PYTHON_HERE) benchmarks/peers.py $(ARGS)

bench-large: ## Measure how time and memory grow with the volume (long; up to 35 GB of disk)
	@tools/environment.sh test
	@$(PYTHON_HERE) benchmarks/scaling.py $(ARGS)

bench-pages: ## Measure the pages of jobs and long logs in a real browser (needs Chromium)
	@tools/environment.sh test
	@$(PYTHON_HERE) benchmarks/pages.py $(ARGS)

docs: ## Write docs/reference/ from the declarations in the code, and tables from the measured figures
	@tools/environment.sh
	$(PYTHON_HERE) tools/make_reference.py
	$(PYTHON_HERE) benchmarks/table.py
	$(PYTHON_HERE) tools/make_reliability_table.py
	$(PYTHON_HERE) tools/make_formats_table.py
	$(PYTHON_HERE) tools/make_models_table.py
