# Both targets need nothing but Python 3.11 or later; everything goes into .venv.
PYTHON ?= python3
VENV := .venv
COMPILERS := .compilers
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.txt

.PHONY: quickstart test pytest soak check bench bench-results compilers compiled docs clean

quickstart: $(VENV)/.core  ## train, prune and condense a small network on real digits
	$(BIN)/cdnv2 quickstart --overwrite

test: $(VENV)/.dev  ## style and types, and beside them the tests
	$(MAKE) --jobs=2 check pytest

pytest: $(VENV)/.dev $(COMPILERS)/.installed
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=15 -m "not soak"

soak: $(VENV)/.dev $(COMPILERS)/.installed  ## what takes minutes, compiled as for users: full size, more networks, runs killed, stopped and out of space
	XLA_FLAGS=--xla_backend_optimization_level=3 $(BIN)/python -m pytest -q -m soak
	$(BIN)/python -m tests.kill_often --kills 40
	$(BIN)/python -m tests.kill_often --kills 40 --signal TERM
	$(BIN)/python -m tests.kill_often --kills 10 --bucket
	$(BIN)/python -m tests.fill_often
	$(BIN)/python -m tests.fuzz_openers --minutes 10

check: export NODE_OPTIONS = --max-semi-space-size=128  # megabytes; spares pyright a sixth of its time
check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(VENV)/.dev  ## inference, training and compiling, beside others, on this machine; under 20 minutes
	$(BIN)/python -m benchmarks.inference --models cdnv2_a cdnv2_c --peers torch torch_channels_last onnx onnx_folded
	$(BIN)/python -m benchmarks.training --pruned no --peers torch torch_channels_last
	$(BIN)/python -m benchmarks.compile_time --models cdnv2_a

bench-results: $(VENV)/.dev  ## all of it into benchmarks/results, on an idle machine: an hour or more
	$(BIN)/python -m benchmarks.inference --rounds 11 --output benchmarks/results
	$(BIN)/python -m benchmarks.training --rounds 11 --output benchmarks/results
	$(BIN)/python -m benchmarks.sweep --model cdnv2_c --output benchmarks/results
	$(BIN)/python -m benchmarks.compile_time --output benchmarks/results
	$(BIN)/python -m benchmarks.exported --docs --output benchmarks/results
	$(BIN)/python -m benchmarks.plots
	$(BIN)/python -m benchmarks.readme_table

compilers: $(COMPILERS)/.installed  ## those for TPUs and NVIDIA GPUs, which need no device

COMPILED := $(BIN)/python -m benchmarks.compiled --output benchmarks/results --resume --docs
CONDENSENETS := cdnv2_a cdnv2_b cdnv2_c
DETECTORS := faster_rcnn,cdnv2_a retinanet,cdnv2_a
compiled: $(VENV)/.dev $(COMPILERS)/.installed  ## the programs of docs/accelerators.md, by these compilers: hours
	$(COMPILED) --target v5e h100 v6e --work condensed masked --model $(CONDENSENETS) --batch 128 8 1
	$(COMPILED) --target v5e h100 v6e --work train --model $(CONDENSENETS)
	$(COMPILED) --target v5e h100 --work train --model cdnv2_c --devices 64
	$(COMPILED) --target v5e --work train --model cdnv2_a --batch 64 16
	$(COMPILED) --target v5e h100 --work detect --model $(DETECTORS) --batch 1
	$(COMPILED) --target v5e h100 --work train_detector --model $(DETECTORS) --batch 2

docs: $(VENV)/.dev  ## the API reference as HTML in site/, from the docstrings
	$(BIN)/python -m docs.api_reference

clean:
	rm -rf $(VENV) $(COMPILERS)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/python pyproject.toml requirements.txt
	@echo "Installing JAX and what else is needed (a minute or two) …"
	$(PIP) --editable '.[detection,export]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml requirements.txt
	@echo "Installing the tools of the tests, PyTorch among them …"
	$(PIP) --editable '.[dev]'
	@touch $@

# Not into the environment: JAX would look for their devices. There are none for other systems than Linux on x86-64.
$(COMPILERS)/.installed: $(VENV)/.dev
	@echo "Installing the compilers for TPUs and NVIDIA GPUs into $(COMPILERS) (270 MB, on disk 1.2 GB) …"
	@rm -rf $(COMPILERS)
	$(PIP) --no-deps --target $(COMPILERS) $$($(BIN)/python -m benchmarks.compiled_targets) || \
	  echo "They cannot be installed here: the test that needs them is skipped."
	@mkdir -p $(COMPILERS) && touch $@
