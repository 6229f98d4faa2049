# `make train` and `make test` set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 0
# PyTorch's default Linux wheel brings gigabytes of CUDA; without an NVIDIA driver take the CPU build.
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi),,--extra-index-url https://download.pytorch.org/whl/cpu)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: venv train test lint audit bench-gpu clean

venv: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --retries 1 torch==2.13.0 $(TORCH_INDEX)
	$(PIP) -e '.[dev]'
	touch $@

train: venv
	$(BIN)/clrl train arm3 --seed $(SEED)

test: venv
	$(BIN)/python -m pytest -n 2 -q

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Known vulnerabilities of the pinned versions; needs the network. Fails on what it cannot look up.
audit: venv
	$(PIP) pip-audit
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r constraints.txt

# On a machine with an NVIDIA GPU; writes benchmarks/gpu.json. See docs/gpu.md.
bench-gpu: venv
	$(BIN)/python benchmarks/gpu.py --device cuda

clean:
	rm -rf $(VENV) build dist *.egg-info
