# Needs Python >= 3.11, make and git; every target sets up the rest in a directory of this tree.
#
#   make demo    the main job on the embedded local service, each command with its output
#   make test    lint, types, documentation, then the tests; five minutes with the installation
#   make test-faults   every command against every fault; make test runs a sample
#   make test-kills    commands killed and interrupted at random moments, 200 times each
#   make test-train    the tests that compute with PyTorch, in an environment with 1.5 GB of packages
#   make demo-train    fine-tunes the small model, samples from it, and loads the result in PEFT
#   make test-load     64 clients at once on the local service
#   make audit   what is known against the versions of the dependencies
#   make fuzz    every parser against many thousands of odd inputs
#   make docs    the manual, in doc/build/html
#   make man     the manual pages, in doc/build/man
#   make pictures  the terminal pictures of README and manual, from real output
#   make bench   every measurement against the official command line; BENCH_ARGS="--only startup"
#   make bench-train   training steps per second, compared with a loop in PyTorch and PEFT
#   make clean   remove all that was made here
#
#   make lint | types | docs | pytest   one stage of the test; PYTEST_ARGS="-k publish" narrows it,
#                                      WORKERS=0 runs the tests in one process

PYTHON ?= python3
# Tests wait for processes more than they compute: more of them at once than there are cores.
WORKERS ?= 4
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

# Settings of the person who types `make` must not reach the programs under test.
unexport TINKER_API_KEY TINKER_BASE_URL TINKER_CREDENTIAL_CMD TINKER_PROJECT_ID TINKER_TAGS
unexport TINKEX_PROFILE TINKEX_CONFIG TINKEX_FORMAT TINKEX_HTTP_POOL TINKEX_LOCAL_HOME TINKEX_PLUGINS
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
# Without compiled files every process that a test starts compiles tinkex again: a fifth of the time.
unexport PYTHONDONTWRITEBYTECODE

# Later plugins join by having a directory.
PLUGINS := $(patsubst %/setup.cfg,%,$(wildcard plugins/*/setup.cfg))
PACKAGES := tinkex $(filter-out %.egg-info,$(wildcard plugins/*/tinkex_*))
SOURCES := $(shell find $(PACKAGES) -type f -not -path '*/__pycache__/*' -not -name _commit.py)
METADATA := Makefile setup.cfg pyproject.toml $(wildcard plugins/*/setup.cfg plugins/*/pyproject.toml)
# The commit is stamped into what is built.
GIT_HEAD := $(wildcard .git/HEAD .git/logs/HEAD)

PIP := -m pip --disable-pip-version-check
VENV := .venv/bin/python
# Tests and tools leave nothing in the cache of the user.
CACHE := XDG_CACHE_HOME=$(CURDIR)/.venv/cache

.PHONY: help demo demo-train test environments lint types docs man pictures pytest test-faults test-kills test-load test-train \
    fuzz audit bench bench-train clean
help:
	@sed -n 's/^#   //p' Makefile

# --------------------------------------------------------------- virtual environments

# $(1) directory, $(2) what it is for and how large. A half-made environment has no stamp and is
# made again. The recent pip writes console scripts that start 6 ms faster; setuptools is for the
# tests that build packages without the network.
define new_venv
	@echo "setting up $(1): $(2)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed; say which: make PYTHON=python3.11")'
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	@$(1)/bin/python $(PIP) -qq install --upgrade pip 'setuptools>=77'
endef

# $(1) directory, $(2) what to install. pip's own output is a screenful for each package: the names
# alone show how far it is, and what it complained about is shown where it failed.
define install
	@$(1)/bin/python $(PIP) install $(2) 2> $(1)/errors | awk '\
	    /^ *Collecting /{ sub(/[][<>=!~;].*/, "", $$2); printf "%s%s", n++ ? " " : "    ", $$2; fflush() } \
	    /^Installing collected/{ print n ? "\n    installing them" : "    installing"; fflush() }' \
	    || { cat $(1)/errors >&2; exit 1; }
endef

# For development and tests: editable, so that sources are used as they are.
# PyTorch has a separate environment; in .venv, its plugin is installed without it.
TORCH := plugins/tinkex-torch
EDITABLE := -e '.[test,doc]' $(foreach plugin,$(filter-out $(TORCH),$(PLUGINS)),-e $(plugin))
.venv/.stamp: $(METADATA)
	$(call new_venv,.venv,tinkex and its plugins and tools for development (about 95 packages and a minute))
	$(call install,.venv,$(EDITABLE))
	$(call install,.venv,--no-deps --no-build-isolation -e $(TORCH))
	@rm -rf .venv/cache
	@touch $@

# Training, and what it is compared with. On Linux, pip prefers PyTorch for CUDA, which is several
# gigabytes: PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS can name a place with the wheels for the CPU.
.venv-train/.stamp: $(METADATA)
	$(call new_venv,.venv-train,PyTorch and tinkex with all plugins (about 120 packages, 1.5 GB, two minutes))
	$(call install,.venv-train,torch==2.13.0)
	$(call install,.venv-train,transformers)
	$(call install,.venv-train,peft 'tinker==0.38.*')
	$(call install,.venv-train,-e '.[test]' $(foreach plugin,$(PLUGINS),-e '$(plugin)[test]'))
	@touch $@

# For the demonstration and the measurements: installed as a user installs it.
.venv-demo/.stamp: $(METADATA) $(SOURCES) $(GIT_HEAD)
	$(call new_venv,.venv-demo,tinkex and tinkex-local as a user installs them (about 50 packages and half a minute))
	@rm -rf build $(addsuffix /build,$(PLUGINS))  # setuptools would pack files that are gone
	$(call install,.venv-demo,. plugins/tinkex-local)
	@rm -rf build $(addsuffix /build,$(PLUGINS))
	@touch $@

# The official SDK and command line, which the local service and the measurements are held against.
.venv-sdk/.stamp: Makefile
	$(call new_venv,.venv-sdk,the official SDK to compare with (about 45 packages and half a minute))
	$(call install,.venv-sdk,'tinker==0.38.*')
	@touch $@

# --------------------------------------------------------------- targets

demo: .venv-demo/.stamp
	@PATH="$(CURDIR)/.venv-demo/bin:$$PATH" doc/demo.sh

demo-train: .venv-train/.stamp
	@PATH="$(CURDIR)/.venv-train/bin:$$PATH" doc/demo-train.sh

# Both environments are set up side by side, and so are the stages that use one processor each.
test:
	@$(MAKE) --jobs=2 --output-sync=line environments
	@$(MAKE) --jobs=2 --output-sync=line types docs lint
	@$(MAKE) pytest

environments: .venv/.stamp .venv-sdk/.stamp
	@:

lint: .venv/.stamp
	@echo "ruff"
	@$(VENV) -m ruff check --quiet .
	@$(VENV) -m ruff format --check --quiet .
	@echo "budgets"
	@$(VENV) .ci/house.py --check

types: .venv/.stamp
	@echo "mypy --strict"
	@$(VENV) -m mypy --strict --no-error-summary $(PACKAGES)

docs: .venv/.stamp
	@echo "building the manual with Sphinx; warnings are errors (about 15 seconds)"
	@$(CACHE) $(VENV) -m sphinx -W --keep-going -n -q -b html doc/source doc/build/html
	@echo "manual: doc/build/html/index.html"

man: .venv/.stamp
	@echo "building the manual pages with Sphinx"
	@$(CACHE) $(VENV) -m sphinx -W --keep-going -n -q -b man doc/source doc/build/man
	@echo "manual pages: doc/build/man (man -l doc/build/man/tinkex.1)"

pictures: .venv/.stamp
	@$(VENV) doc/pictures.py

pytest: .venv/.stamp .venv-sdk/.stamp
	@echo "pytest"
	@$(CACHE) TINKEX_SDK_PYTHON=$(CURDIR)/.venv-sdk/bin/python $(VENV) -m pytest -q -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

test-train: .venv-train/.stamp
	@echo "pytest -m train"
	@$(CACHE) OMP_WAIT_POLICY=PASSIVE TINKEX_SDK_PYTHON=$(CURDIR)/.venv-train/bin/python \
	    .venv-train/bin/python -m pytest -q -m train $(PYTEST_ARGS)

# The whole matrix of faults and commands; writes its table for the manual.
test-faults: .venv/.stamp .venv-sdk/.stamp
	@$(CACHE) $(VENV) -m pytest -q -n $(WORKERS) tests/faults --all-faults --hang-after 3600 \
	    --fault-table doc/source/explanation/faults.csv \
	    --write-table doc/source/explanation/writes.csv $(PYTEST_ARGS)

# Every parser against inputs that nobody thought of; writes how many.
FUZZ_EXAMPLES ?= 10000
fuzz: .venv/.stamp
	@$(CACHE) $(VENV) -m pytest -q -n $(WORKERS) tests/fuzz --hang-after 0 --fuzz-examples $(FUZZ_EXAMPLES) \
	    --fuzz-table doc/source/explanation/fuzz.csv $(PYTEST_ARGS)

# Sixty-four clients at once on the local service for a minute; writes their waits.
test-load: .venv/.stamp
	@$(CACHE) $(VENV) benchmarks/serve_load.py --write doc/source/explanation/load.csv

# Every command that writes, killed and interrupted at random moments; writes how often.
KILLS ?= 200
test-kills: .venv/.stamp
	@$(CACHE) $(VENV) -m pytest -q -n 2 --dist load -m kills --hang-after 0 --kills $(KILLS) \
	    tests/faults tests/functional tests/unit plugins/tinkex-local/tests \
	    --kill-table doc/source/explanation/kills.csv $(PYTEST_ARGS)

# What is known against the versions that are installed; needs a network that reaches PyPI itself.
audit: .venv/.stamp
	@test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && \
	    .venv-audit/bin/python $(PIP) -qq install pip-audit; }
	@$(VENV) -m pip list --format=freeze --exclude-editable > .venv-audit/installed.txt
	@.venv-audit/bin/pip-audit --strict --no-deps --disable-pip -r .venv-audit/installed.txt

# The demonstration does without the HTTP/2 pool, as a first installation does.
.venv-demo/.http2: .venv-demo/.stamp $(wildcard plugins/tinkex-http2/tinkex_http2/*.py)
	$(call install,.venv-demo,plugins/tinkex-http2)
	@rm -rf plugins/tinkex-http2/build
	@touch $@

bench: .venv-demo/.http2 .venv-sdk/.stamp
	@.venv-demo/bin/python benchmarks/run.py --tinker .venv-sdk/bin/tinker \
	    --write $(if $(BENCH_ARGS),benchmarks/out/RESULTS.md,benchmarks/RESULTS.md) $(BENCH_ARGS)

bench-train: .venv-train/.stamp
	@.venv-train/bin/python benchmarks/train.py --write benchmarks/TRAINING.md $(BENCH_ARGS)

clean:
	rm -rf .venv .venv-demo .venv-sdk .venv-train .venv-audit build dist doc/build benchmarks/out *.egg-info \
	    plugins/*/build plugins/*/dist plugins/*/*.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
