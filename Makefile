# make train: install into .venv and train the fin ray.  make test: the whole suite.  make help: the rest.
PYTHON ?= python3
VENV ?= .venv
TORCH ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
PIP := $(BIN)/python -m pip --disable-pip-version-check

# What Ray and the numerical libraries read when their processes start.
export OMP_NUM_THREADS ?= 1
export WANDB_ERROR_REPORTING ?= false

.PHONY: help train test validate learn chaos check format lint types bench peers controller fluid-peers throughput-peers install install-dev clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | column -t -s:

train: install  ## install, train the fin ray, show what it learned
	$(BIN)/distrl train fin-ray

test: install-dev  ## the whole test suite, two files at a time (most of its time is Ray's starting)
	@# in the files' order: long ones first, and the flows' kernels are compiled by one process before the other needs them
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

validate: install-dev controller  ## every check against the literature, and docs/validation.md from what they give; 10 minutes or so
	$(BIN)/python -m pytest -m "slow or not slow" tests/validation --ignore=tests/validation/test_page.py --record
	$(BIN)/python -m tests.validation.report
	$(BIN)/python -m pytest -m slow --ignore=tests/chaos --ignore=tests/validation --ignore=tests/learning

learn: install-dev  ## each algorithm on small problems over three seeds against a stated return, and their table in docs/algorithms.md
	$(BIN)/python -m pytest -m "slow or not slow" tests/learning/test_learning.py -n 2 --results benchmarks/results/learning.json
	$(BIN)/python -m tests.learning.report

chaos: install-dev  ## the long scenarios of kills and lost nodes, a few minutes (the short ones are in make test)
	$(BIN)/python -m pytest -m slow tests/chaos

check: install-dev format lint types test  ## format, lint, types, tests

format: install-dev
	$(BIN)/ruff format --check .

lint: install-dev
	$(BIN)/ruff check .

types: install-dev
	$(BIN)/mypy

bench: install-dev peers  ## every benchmark of this machine, one JSON line each
	-@$(MAKE) fluid-peers  # a package that cannot be installed is an error in the line, not of the benchmark
	@$(BIN)/python benchmarks/pool.py
	@$(BIN)/python -m benchmarks.inline_pool
	@$(BIN)/python -m benchmarks.inference
	@$(BIN)/python benchmarks/multi_agent.py --case population
	@$(BIN)/python benchmarks/multi_agent.py --case slow
	@$(BIN)/python benchmarks/fluids.py --fidelities smoke coarse default
	@$(BIN)/python -m benchmarks.gpu
	@$(BIN)/python benchmarks/slow_envs.py
	@$(BIN)/python -m benchmarks.scale
	@$(BIN)/python -m benchmarks.durability
	@$(BIN)/python -m benchmarks.report
	@$(BIN)/python -m benchmarks.monitoring
	@$(BIN)/python -m distrl.learners.bench
	@$(BIN)/python -m benchmarks.learners_in_step
	@$(BIN)/python -m distrl.learners.bench_on_policy
	@$(BIN)/python -m distrl.learners.bench_images

install: $(STAMP)
install-dev: $(DEV_STAMP)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)

# A torch of your own (a GPU machine's, say): make train TORCH=torch==2.13.0+cu130
$(VENV)/constraints.txt: constraints.txt | $(BIN)/python
	@if [ -n "$(TORCH)" ]; then grep -v '^torch==' constraints.txt > $@; echo "$(TORCH)" >> $@; else cp constraints.txt $@; fi

$(STAMP): pyproject.toml $(VENV)/constraints.txt
	$(PIP) install -q -c $(VENV)/constraints.txt $(if $(TORCH),"$(TORCH)") -e .
	@touch $@

$(DEV_STAMP): $(STAMP)
	$(PIP) install -q -c $(VENV)/constraints.txt -e '.[dev]'
	@touch $@

peers: $(VENV)-peers/.installed  ## the peers that benchmarks compare with, in an environment of their own
$(VENV)-peers/.installed: $(VENV)/constraints.txt
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python -m pip --disable-pip-version-check install -q -c $(VENV)/constraints.txt torch stable-baselines3==2.9.2 'gymnasium[mujoco]' ale-py opencv-python-headless numba pydantic
	@touch $@

controller: $(VENV)-controller/.installed  ## W&B's local sweep controller, which wants an older NumPy, in an environment of its own
$(VENV)-controller/.installed: $(VENV)/constraints.txt
	$(PYTHON) -m venv $(VENV)-controller
	$(VENV)-controller/bin/python -m pip --disable-pip-version-check install -q "wandb[sweeps]$$(sed -n 's/^wandb//p' $<)"
	@touch $@

FLUID_PEERS := $(VENV)-fluid-peers
fluid-peers: $(FLUID_PEERS)/.installed  ## the fluid solvers that benchmarks compare with, each in an environment of its own
$(FLUID_PEERS)/.installed:
	$(PYTHON) -m venv $(FLUID_PEERS)/hydrogym
	$(FLUID_PEERS)/hydrogym/bin/python -m pip --disable-pip-version-check install -q 'hydrogym[jax]==1.0.0' gymnax==0.0.9 jax==0.10.2
	$(PYTHON) -m venv $(FLUID_PEERS)/phiflow
	$(FLUID_PEERS)/phiflow/bin/python -m pip --disable-pip-version-check install -q phiflow==3.4.0 jax==0.10.2
	@touch $@

THROUGHPUT_PEERS := $(VENV)-throughput-peers
throughput-peers: install peers $(THROUGHPUT_PEERS)/.installed  ## what benchmarks/throughput.py compares with
$(THROUGHPUT_PEERS)/.installed: $(VENV)/constraints.txt
	$(PIP) install -q -c $(VENV)/constraints.txt -e '.[mujoco,atari]' opencv-python-headless
	$(PYTHON) -m venv $(THROUGHPUT_PEERS)/sample-factory
	$(THROUGHPUT_PEERS)/sample-factory/bin/python -m pip --disable-pip-version-check install -q sample-factory==2.1.1 $$(grep '^torch==' $<)
	@# it asks for Gymnasium < 1.0 (pip complains), and runs with ours: all peers step the same environments
	$(THROUGHPUT_PEERS)/sample-factory/bin/python -m pip --disable-pip-version-check install -q imageio $$(grep -E '^(gymnasium|mujoco|ale-py)==' $<)
	@touch $@

clean:  ## remove the environment and caches, never runs
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
