# make demo | test | lint | format | parity | cuda | bench | clean. Each target builds the environment it needs.

.DEFAULT_GOAL := help

VENV := .venv
PARITY_V5 := .venv-parity
PARITY_V4 := .venv-parity-v4
OPTIMUM := .venv-optimum
CUDA := .venv-cuda
PIP_INSTALL := -m pip install -qq --disable-pip-version-check --no-input

DEMO_MODEL := smollm2-135m-instruct
DEMO_PACKAGE := build/smollm2
DEMO_QUESTION := Why is the sky blue? Answer in two sentences.

# The first interpreter that is new enough; PYTHON=/path/to/python overrides the search.
PYTHON ?= $(shell for candidate in python3 python3.11 python3.12 python3.13 python3.14; do \
	"$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$candidate" && break; done)

.PHONY: help demo test lint format parity parity-v5 parity-v4 parity-optimum cuda figures bench clean

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 18

demo: $(VENV)/.runtime ## export a small chat model to int4 and let it answer a question
	$(VENV)/bin/edgelm export $(DEMO_MODEL) -o $(DEMO_PACKAGE) --precision int4 --force
	$(VENV)/bin/edgelm run $(DEMO_PACKAGE) "$(DEMO_QUESTION)" --stats --max-new-tokens 64

test: lint ## lint, type check, and the tests that need neither torch nor a hub
	$(VENV)/bin/python -m pytest --durations=10

lint: $(VENV)/.dev ## ruff and pyright
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

format: $(VENV)/.dev ## apply ruff's fixes and formatting
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

parity: parity-v5 parity-v4 parity-optimum ## compare with torch, two major versions of transformers and Optimum, live

parity-v5: $(PARITY_V5)/.installed
	$(PARITY_V5)/bin/python -m pytest tests/parity

# After v5: two runs at once would fight for the cores.
parity-v4: $(PARITY_V4)/.installed | parity-v5
	$(PARITY_V4)/bin/python -m pytest tests/parity

parity-optimum: $(OPTIMUM)/.installed | parity-v4
	$(OPTIMUM)/bin/python -m pytest tests/parity_optimum

cuda: $(CUDA)/.installed ## what ONNX Runtime for CUDA does on a machine without a GPU
	$(CUDA)/bin/python -m pytest tests/gpu

figures: $(PARITY_V5)/.installed $(PARITY_V4)/.installed ## record what parity measures, and write the pages that quote it
	$(PARITY_V5)/bin/python -m pytest tests/parity -k "random" --record-figures
	$(PARITY_V4)/bin/python -m pytest tests/parity -k "random" --record-figures
	$(VENV)/bin/python docs/generate.py

bench: $(VENV)/.runtime ## speed beside quality, with the peers in their own environments
	$(VENV)/bin/python tests/benchmarks/run.py
	$(VENV)/bin/python tests/benchmarks/run_encoders.py

clean: ## remove environments and build outputs
	rm -rf .venv* build dist .pytest_cache .ruff_cache

# An environment is rebuilt when what it is made from changed; .runtime is what a user has, .dev adds the tools.
$(VENV)/.runtime: pyproject.toml | $(VENV)/bin/python
	@echo "installing edgelm into $(VENV)"
	$(VENV)/bin/python $(PIP_INSTALL) -e '.[cpu,export]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "installing edgelm and its tools into $(VENV)"
	$(VENV)/bin/python $(PIP_INSTALL) -e '.[cpu,export,test,dev]'
	@touch $(VENV)/.runtime $@

$(PARITY_V5)/.installed: pyproject.toml tests/parity/requirements-v5.txt | $(PARITY_V5)/bin/python
	@echo "installing torch and transformers 5 into $(PARITY_V5)"
	$(PARITY_V5)/bin/python $(PIP_INSTALL) -e '.[cpu,export,test]' -r tests/parity/requirements-v5.txt
	@touch $@

$(PARITY_V4)/.installed: pyproject.toml tests/parity/requirements-v4.txt | $(PARITY_V4)/bin/python
	@echo "installing torch and transformers 4 into $(PARITY_V4)"
	$(PARITY_V4)/bin/python $(PIP_INSTALL) -e '.[cpu,export,test]' -r tests/parity/requirements-v4.txt
	@touch $@

$(OPTIMUM)/.installed: pyproject.toml tests/parity/requirements-optimum.txt | $(OPTIMUM)/bin/python
	@echo "installing torch and Optimum into $(OPTIMUM)"
	$(OPTIMUM)/bin/python $(PIP_INSTALL) -e '.[cpu,optimum,test]' -r tests/parity/requirements-optimum.txt
	@touch $@

$(CUDA)/.installed: pyproject.toml | $(CUDA)/bin/python
	@echo "installing onnxruntime-gpu without CUDA's libraries into $(CUDA)"
	$(CUDA)/bin/python $(PIP_INSTALL) -e '.[export,test]' 'onnxruntime-gpu==1.31.1'
	@touch $@

%/bin/python:
	@test -n "$(PYTHON)" || { echo "edgelm needs Python 3.11 or newer, and neither python3 nor python3.11 to python3.14 is;" \
		"install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -m venv $* || { rm -rf $*; echo "$(PYTHON) could not create $*;" \
		"on Debian and Ubuntu 'apt-get install python3-venv' adds what is missing" >&2; exit 1; }
