# Everything a person runs here. Needs GNU make, git, a POSIX shell and Python 3.11 or newer; the rest comes by itself.
#
#   PYTHON=/path/to/python   the interpreter to build .venv with (default: the newest tested one that runs)
#   UV=                      install with pip, although uv is on the PATH
#   KEEP=1                   `make demo` stays up after its summary, for a look around in Flower
#   ARGS="-k lease -x"       more arguments for pytest in `make test`
#   JOBS=0                   all tests in one process, for a debugger (default: eight processes, which mostly wait)
#   UPGRADE=1                `make lock` takes the newest versions instead of keeping the ones in the lock

SHELL := /bin/sh
JOBS ?= 8
UV ?= uv
# A file's tests stay together, and files that share a worker (tests/spreading.py), in the order of tests/conftest.py:
# those that wait longest come first. What takes long is listed at the end. A process that a test hangs or ends is not
# started again: xdist would run the same test in it.
# The unit tests only compute: more processes than these import for longer than they save.
UNIT_JOBS = $(if $(filter 0,$(JOBS)),0,2)
SPREAD = -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart=0 --durations=10 --durations-min=10
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# An interpreter's own settings would lead our .venv astray. Without compiled files each start of a worker compiles
# us again, and each test process all tests.
unexport PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE

PY := .venv/bin/python
# Touched once the environment holds what the demo needs, and what everything needs. Whatever goes wrong before leaves it to
# the next run.
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

# Once in a clone: else each process of the first run would compile all the tests, and all at the same time.
$(COMPILED): $(READY)
	@mkdir -p $(@D); \
	for some in unit "acceptance faults integration workers"; do \
		$(PY) -m pytest -n 0 -qq --collect-only $$(printf 'tests/%s ' $$some) >/dev/null 2>&1 & \
	done; wait; touch $@

# `exec` hands signals to the program itself: no shell in between that could leave it behind.
.PHONY: demo
demo: $(RUNS) ## Run the whole thing here, without any key, in about 40 seconds (KEEP=1 leaves it up)
	@exec $(PY) -m demo $(if $(KEEP),--keep)

.PHONY: test
test: $(COMPILED) ## Run all tests (ARGS="-k lease" picks some)
	@exec $(PY) -m pytest $(SPREAD) $(ARGS)

.PHONY: unit
unit: $(READY) ## Run the tests that start nothing
	@$(PY) -m pytest -n $(UNIT_JOBS) --dist loadfile -o faulthandler_timeout=0 -q tests/unit $(ARGS)

# They wait little, so five processes keep two cores busy. Folders that are named as arguments would be read by all five.
.PHONY: fast
fast: JOBS = 5
fast: $(COMPILED) ## Run the tests that start no worker
	@$(PY) -m pytest $(SPREAD) $(patsubst %,--ignore=tests/%,acceptance faults workers) $(ARGS)

.PHONY: check
check: lint coverage ## Run everything that must pass before a commit lands: lint, then all tests, measured

.PHONY: lint
lint: style types imports images ## Check style, types, import directions, Dockerfile, compose file and workflow

.PHONY: format
format: $(READY) ## Mend what can be mended by itself: style and layout
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

# The tests of `make test`, measured, which keeps two cores busy with four. pytest speaks last: the gate prints only what
# fell short. CPython 3.11 may turn in a circle for ever while it is traced, where a thread ends that had greenlets: it
# looks again and again for pending calls that wait until it goes on. So it is not measured.
.PHONY: coverage
coverage: JOBS = 4
coverage: $(COMPILED)
	@if ! $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then \
		echo "note: coverage is measured on Python 3.12 or newer; here the tests only run"; \
		exec $(PY) -m pytest $(SPREAD) $(ARGS); \
	fi; \
	$(PY) -m coverage erase && $(PY) -m pytest $(SPREAD) --cov --cov-report=term $(ARGS) && \
		$(PY) .ci/coverage_gate.py --lines 90 --branches 90

# The other tests never need it. A lock of npm's would name addresses, so each package.json pins the versions instead.
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
clean: ## Remove the environment, caches and whatever a run left behind
	@rm -rf .venv examples/*/node_modules examples/nextjs/.next clients/node/node_modules clients/node/dist build dist .coverage .coverage.* htmlcov .tmp .keywheel *.egg-info
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
