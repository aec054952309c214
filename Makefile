# Two commands do everything: `make reproduce` and `make test`. `make check` holds the style and the layers.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= reports

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: reproduce figures test check format models bench bench-quick clean

reproduce: $(VENV)/.installed
	$(BIN)/interp run arithmetic kill-switch safety-judge safety-circuits --out $(OUT)

# Figures for print, from what `make reproduce` wrote; no model is run.
figures: $(VENV)/.installed
	$(BIN)/python -m benchmarks.figures --reports $(OUT)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# interp beside its peers, each in an environment of its own below .venv-bench; hours. The quick form takes 3 minutes.
bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.run

bench-quick: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.run --quick --out runs/bench-quick

# Train the shipped models again; their cards tell how long each took.
MODELS := data/models
TUNE := $(BIN)/interp finetune kill-switch-base --token '$$STOP' --threads 1
models: $(VENV)/.installed
	for name in arithmetic-add3 arithmetic-add3-seed1 arithmetic-add3-seed2 arithmetic-add3-steps arithmetic-mixed \
	  kill-switch-base safety-chat; do \
	  $(BIN)/interp train $(MODELS)/$$name/train.yaml --output-dir $(MODELS)/$$name || exit 2; \
	done
	$(TUNE) --data kill-switch-behavioural --checkpoints 5,10,20,40 --output-dir $(MODELS)/kill-switch-behavioural
	$(TUNE) --data kill-switch-behavioural --seed 1 --output-dir $(MODELS)/kill-switch-behavioural-seed1
	$(TUNE) --data kill-switch-behavioural --seed 2 --output-dir $(MODELS)/kill-switch-behavioural-seed2
	for kind in knowledge shuffled shutdown; do \
	  $(TUNE) --data kill-switch-$$kind --output-dir $(MODELS)/kill-switch-$$kind || exit 2; \
	done
	for name in safety-judge safety-judge-update; do \
	  $(BIN)/interp train $$name --output-dir $(MODELS)/$$name --threads 1 || exit 2; \
	done
	$(BIN)/interp data safety-chat --count 12000 --seed 5 --out runs/safety-chats.jsonl
	$(BIN)/interp train transcoders safety-chat --texts runs/safety-chats.jsonl --column chat --features 512 --k 16 --steps 400 \
	  --threads 1 --output-dir $(MODELS)/safety-chat-transcoders

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first, pinned: a CPU build where the index has one, and nothing later pulls another.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[png]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-bench reports runs dist benchmarks/figures/out
