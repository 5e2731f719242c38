# From a bare Python to a running demonstration. Every target sets up what it needs first.
#   make demo [SECONDS=60] [RECORDING=file] [FEED=upbit] [FOLDER=run-folder]
#   make setup | setup-dev | test | coverage | lint | locks | clean

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test coverage lint locks clean

# The first Python that runs, fits and can make environments; shims exist that are found but fail.
FIND_PYTHON = for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		>/dev/null 2>&1 && break; python=; done; \
	if [ -z "$$python" ]; then echo "No fitting Python was found: install Python 3.11, 3.12 or 3.13 with its venv\
	module (Debian, Ubuntu: apt install python3 python3-venv) and run the same command again." >&2; exit 1; fi

BIN := .venv/bin
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate --quiet $(if $(UPGRADE),--upgrade)

help: ## Say what there is.
	@sed -n '2,3s/^# *//p' Makefile

setup: ## Install the base set into .venv.
	@$(FIND_PYTHON); exec "$$python" install.py

setup-dev: ## Install what the tests need, too.
	@$(FIND_PYTHON); exec "$$python" install.py --dev

demo: setup ## Run everything on a synthetic market (or RECORDING=, FEED=), until Ctrl-C or for SECONDS.
	@exec $(BIN)/observator demo $(if $(SECONDS),--seconds '$(SECONDS)') \
		$(if $(RECORDING),--recording '$(RECORDING)') $(if $(FEED),--feed '$(FEED)') $(if $(FOLDER),--home '$(FOLDER)')

lint: setup-dev ## Style, types, layers.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup-dev ## The whole check.
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest -n 2 --dist worksteal

# Apart from the check: in child processes, too, it takes two thirds more CPU time, and real processes miss their times.
coverage: setup-dev ## Run the tests with coverage of lines and branches; fails below 90 %.
	$(BIN)/pytest -n 2 --dist worksteal --cov --cov-report=term

locks: setup-dev ## Write requirements/ anew from pyproject.toml; UPGRADE=1 takes newer versions.
	$(COMPILE) pyproject.toml --group dev -o requirements/dev.txt
	$(COMPILE) pyproject.toml -c requirements/dev.txt -o requirements/base.txt
	printf 'uv\nsetuptools>=80\n' | $(COMPILE) - -o requirements/bootstrap.txt
	$(COMPILE) --group clients --no-emit-package cryptofeed -o requirements/clients.txt
	printf 'cryptofeed>=2.4.1\n' | $(COMPILE) - --no-deps -o requirements/clients-built.txt

clean: ## Remove what was made here (not the run folder .observator).
	rm -rf .venv build dist *.egg-info htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
