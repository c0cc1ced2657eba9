# The commands for contributors. They need GNU make, git, a POSIX shell and Python 3.11 or newer, and install the rest.
#
#   PYTHON=/path/to/python   the interpreter to build .venv with (default: the newest tested one that runs)
#   UV=                      install with pip even if uv is on the PATH
#   KEEP=1                   `make demo` keeps running after its summary, so that you can look around in Flower
#   ARGS="-k lease -x"       more arguments for pytest in `make test`
#   JOBS=0                   all tests in one process, for a debugger (default: eight processes, which mostly wait)
#   UPGRADE=1                `make lock` takes the newest versions instead of the versions in the lock files

SHELL := /bin/sh
JOBS ?= 8
UV ?= uv
# All tests of a file run in one process, and so do all files that share a worker (tests/spreading.py). The files run in
# the order of tests/conftest.py: the files that wait longest come first. pytest lists the slowest tests at the end.
# If a test hangs or ends its process, the process is not started again, because xdist would run the same test in it.
# The unit tests only compute: more than two processes would spend more time on imports than they save.
UNIT_JOBS = $(if $(filter 0,$(JOBS)),0,2)
SPREAD = -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart=0 --durations=10 --durations-min=10
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# These settings of another interpreter would also apply to the one in .venv. Without compiled files, each start of a
# worker compiles our code again, and each test process compiles all tests.
unexport PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE

PY := .venv/bin/python
# .ci/venv makes RUNS when the packages of the demo are installed, and READY when all packages are. After a failure the
# file is missing, so the next run installs again.
RUNS := .venv/.runs
READY := .venv/.ready
COMPILED := tests/__pycache__/.compiled

.PHONY: help
help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

$(RUNS): requirements-demo.lock pyproject.toml .ci/venv
	@PYTHON="$(PYTHON)" UV="$(UV)" exec sh .ci/venv demo

$(READY): requirements.lock pyproject.toml .ci/venv
	@PYTHON="$(PYTHON)" UV="$(UV)" exec sh .ci/venv all

# Compiles the tests once in a clone. Otherwise each process of the first run would compile all of them at the same time.
$(COMPILED): $(READY)
	@mkdir -p $(@D); \
	for some in unit "acceptance faults integration workers"; do \
		$(PY) -m pytest -n 0 -qq --collect-only $$(printf 'tests/%s ' $$some) >/dev/null 2>&1 & \
	done; wait; touch $@

# With `exec` the program gets signals directly. A shell in between could end and leave the program running.
.PHONY: demo
demo: $(RUNS) ## Run Keywheel with simulated providers, without keys, in about 40 seconds (KEEP=1 keeps it running)
	@exec $(PY) -m demo $(if $(KEEP),--keep)

.PHONY: test
test: $(COMPILED) ## Run all tests (ARGS="-k lease" picks some)
	@exec $(PY) -m pytest $(SPREAD) $(ARGS)

.PHONY: unit
unit: $(READY) ## Run the tests that start no process and no Redis
	@$(PY) -m pytest -n $(UNIT_JOBS) --dist loadfile -o faulthandler_timeout=0 -q tests/unit $(ARGS)

# These tests wait little, so five processes keep two cores busy. Each process would read all folders that are named as
# arguments, so the command names the folders to ignore instead.
.PHONY: fast
fast: JOBS = 5
fast: $(COMPILED) ## Run the tests that start no worker
	@$(PY) -m pytest $(SPREAD) $(patsubst %,--ignore=tests/%,acceptance faults workers) $(ARGS)

.PHONY: check
check: lint coverage ## Run everything that must pass before a commit lands: lint, all tests, their coverage

.PHONY: lint
lint: style types imports images ## Check style, types, import directions, Dockerfile, compose file and workflow

.PHONY: format
format: $(READY) ## Fix the style and layout that ruff can fix
	@$(PY) -m ruff check --fix; left=$$?; $(PY) -m ruff format && exit $$left

.PHONY: style
style: $(READY)
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check

.PHONY: types
types: $(READY)
	@$(PY) -m mypy

.PHONY: imports
imports: $(READY)
	@.venv/bin/lint-imports

.PHONY: images
images: $(READY)
	@.venv/bin/hadolint Dockerfile
	@$(PY) -m check_jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml
	@$(PY) -m check_jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/ci.yml

# Measures the coverage of `make test`; measured tests keep two cores busy with four processes. The gate prints only the
# shares that are too low. Python 3.11 is not measured: if a thread that had greenlets ends while CPython 3.11 traces it,
# CPython may loop forever, because it waits for pending calls that in turn wait for it.
.PHONY: coverage
coverage: JOBS = 4
coverage: $(COMPILED)
	@if ! $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then \
		echo "note: coverage is measured on Python 3.12 or newer; here the tests only run"; \
		exec $(PY) -m pytest $(SPREAD) $(ARGS); \
	fi; \
	$(PY) -m coverage erase && $(PY) -m pytest $(SPREAD) --cov --cov-report=term $(ARGS) && \
		$(PY) .ci/coverage_gate.py --lines 90 --branches 90

# Only the tests for Node need npm. A lock file of npm would contain addresses, so each package.json pins the versions.
NPM := npm install --no-audit --no-fund --fetch-retries=1 --fetch-retry-mintimeout=1000 --fetch-timeout=10000
.PHONY: examples
examples: ## Install what clients/node and examples/express need (with npm), so that their tests run
	@cd clients/node && $(NPM)
	@cd examples/express && $(NPM)

.PHONY: nextjs
nextjs: ## Install and build examples/nextjs (370 MB), so that its tests run
	@cd clients/node && $(NPM)
	@cd examples/nextjs && $(NPM) && NEXT_TELEMETRY_DISABLED=1 npm run --silent build

.PHONY: docs
docs: $(READY) ## Write docs/settings.md, .env.example and docs/schemas anew from the code
	@$(PY) .ci/write_docs.py

.PHONY: lock
lock: $(READY) ## Write the lock files anew from pyproject.toml (UPGRADE=1 takes newer versions)
	@PY="$(PY)" UPGRADE="$(UPGRADE)" sh .ci/lock

.PHONY: clean
clean: ## Remove the environment, the caches and all files that a run left behind
	@rm -rf .venv examples/*/node_modules examples/nextjs/.next clients/node/node_modules clients/node/dist build dist .coverage .coverage.* htmlcov .tmp .keywheel *.egg-info
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
