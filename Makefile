# EdgeRig's commands. `make` alone lists them; scripts/setup makes what each of them needs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
PYTHON_TORCH := .cache/torch-venv/bin/python
EDGERIG := .venv/bin/edgerig
QUICKSTART := topology/examples/quickstart.yaml
SEED_OPTION := $(if $(SEED),--seed $(SEED))
# All rings of tests, real containers included; twice what they take on two cores, so that a hang ends.
TEST_BOUND_S := 2400
# Tests of this ring share no host-wide thing, so every core has some, and one more since many wait; containers and links
# have the host to themselves.
PURE := not containers and not netns
PARALLEL := -n $(shell echo $$(($$(nproc 2>/dev/null || echo 2) + 1))) --dist loadfile
# onnxruntime >= 1.29 sends usage data to its vendor unless told not to.
export ORT_DISABLE_TELEMETRY := 1

.PHONY: help setup demo process-demo test test-torch check bench images clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: ## .venv, Docker where it can be installed, base image, images
	@scripts/setup

demo: ## ten throttled containers train over shaped links; one is killed; a report with a verdict (SEED=n: another draw)
	@if scripts/setup; then \
	    $(EDGERIG) run $(QUICKSTART) $(SEED_OPTION); \
	elif [[ $$? -eq 3 ]]; then \
	    echo "demo: NO DOCKER HERE (see above). Falling back to --runtime process: real processes and MQTT, but no"; \
	    echo "demo: containers, no CPU quotas and no shaped links. The report says so too."; \
	    $(MAKE) --no-print-directory process-demo; \
	else \
	    exit 1; \
	fi

process-demo: ## the same topology without Docker and without root
	@scripts/setup --python-only
	@$(EDGERIG) run $(QUICKSTART) --runtime process $(SEED_OPTION)

test: ## every test, real containers included (some 20 minutes)
	@scripts/setup || { [[ $$? -eq 3 && -z "$${CI:-}" ]] && scripts/setup --python-only && \
	    echo "test: NO DOCKER HERE (see above): tests that need it are skipped. In CI they would fail."; }
	@$(PYTHON) scripts/lib/bounded.py $(TEST_BOUND_S) $(PYTHON) -m pytest $(PARALLEL) -m "$(PURE)"
	@$(PYTHON) scripts/lib/bounded.py $(TEST_BOUND_S) $(PYTHON) -m pytest -m "not ($(PURE))"

test-torch: ## against PyTorch and the privacy accountant, in an environment of its own that has them
	@scripts/setup --torch
	@$(PYTHON_TORCH) -c 'import torch; print("test-torch: PyTorch", torch.__version__)'
	@$(PYTHON_TORCH) scripts/lib/bounded.py $(TEST_BOUND_S) $(PYTHON_TORCH) -m pytest -m "torch or privacy"

check: ## format, lint, types, import floors, generated files, unit tests
	@scripts/setup --python-only
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	.venv/bin/lint-imports
	$(EDGERIG) generated --check
	$(PYTHON) scripts/lib/bounded.py $(TEST_BOUND_S) $(PYTHON) -m pytest -q $(PARALLEL) -m "$(PURE) and not slow"

bench: ## the benchmarks, one after the other, each with its command
	@scripts/setup --python-only
	@scripts/bench

images: ## base image and the four images
	@scripts/setup --images

clean: ## what runs left, caches and the project's images; keeps .venv and runs/
	@scripts/clean
