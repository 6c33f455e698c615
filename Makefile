# Every target sets up what it needs, in a virtual environment that is made once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The release that the tests were run with. A bare `torch` may bring gigabytes of CUDA.
TORCH ?= torch==2.13.0
# timm's own requirements include torchvision; its schedulers need only torch.
TIMM ?= timm==1.0.31
# With bytecode, so that not every process of a test compiles the package anew.
PYTEST := PYTHONDONTWRITEBYTECODE= TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m pytest \
	--numprocesses=auto

.PHONY: run test test-tensorflow test-jax test-torch test-all test-oldest test-newest \
	test-nightly test-tools test-browser fuzz lint format \
	bench gpu gpu-wheels reliability lines claims gallery docs package clean

run: $(VENV)/.tensorflow $(VENV)/.examples
	$(BIN)/python examples/quickstart.py $(ARGS)

# For every change: one set of parameters of each test function, and no programs.
test: $(VENV)/.tensorflow $(VENV)/.test
	KERAS_BACKEND=tensorflow $(PYTEST) --quick $(ARGS)

test-tensorflow: $(VENV)/.tensorflow $(VENV)/.test
	KERAS_BACKEND=tensorflow $(PYTEST) $(ARGS)

test-jax: $(VENV)/.jax $(VENV)/.test
	KERAS_BACKEND=jax $(PYTEST) $(ARGS)

# With the peers and an S3 server installed, so that no test with them is skipped.
test-torch: $(VENV)/.torch $(VENV)/.peers $(VENV)/.storage $(VENV)/.test
	KERAS_BACKEND=torch $(PYTEST) $(ARGS)

# Every parameter and every program on every backend; takes an hour.
test-all:
	$(MAKE) test-tensorflow ARGS="--all $(ARGS)"
	$(MAKE) test-jax ARGS="--all $(ARGS)"
	$(MAKE) test-torch ARGS="--all $(ARGS)"

# What depends most on Keras, with the oldest that is supported, in a folder of its own.
MATRIX := tests/test_private_attributes.py tests/test_training.py tests/test_saving.py \
	tests/callbacks/test_hyperparameter_scheduler.py tests/callbacks/test_fit.py \
	tests/callbacks/test_weight_averaging.py tests/callbacks/test_snapshot_ensemble.py \
	tests/callbacks/test_resumable_training.py tests/optimizers
OLDEST ?= keras==3.12.0

test-oldest: $(VENV)/oldest $(VENV)/.torch $(VENV)/.test
	PYTHONPATH=$(CURDIR)/$(VENV)/oldest KERAS_BACKEND=torch $(PYTEST) $(MATRIX) $(ARGS)

$(VENV)/oldest: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-deps --target $@ "$(OLDEST)"

# The same with what Keras will release next. Not in CI: it may fail on any day.
test-nightly: $(VENV)/.torch $(VENV)/.test
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/nightly \
		keras-nightly
	PYTHONPATH=$(CURDIR)/$(VENV)/nightly KERAS_BACKEND=torch $(PYTEST) $(MATRIX) $(ARGS)

# With MLflow, W&B, KerasTuner and scikeras: the guide "With the tools you use".
test-tools: $(VENV)/.tensorflow $(VENV)/.tools $(VENV)/.test
	KERAS_BACKEND=tensorflow $(PYTEST) --numprocesses=0 tests/test_tools.py $(ARGS)

# All on JAX, with the newest Python that TensorFlow has wheels for.
NEWEST ?= python3.13
test-newest:
	$(MAKE) PYTHON=$(NEWEST) VENV=$(VENV)-newest test-jax

# Arguments and altered files, with 10,000 examples each; takes an hour.
fuzz: $(VENV)/.tensorflow $(VENV)/.torch $(VENV)/.test
	KERAS_LRS_FUZZ=10000 KERAS_BACKEND=torch $(PYTEST) tests/fuzz tests/travelling/test_altered.py $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What everything costs, beside the peers: docs/performance.md; what was aimed at:
# benchmarks/aims.md; and the measurements, to compare releases. Wants a quiet machine
# for half an hour.
REPORT ?= docs/performance.md
AIMS ?= benchmarks/aims.md
SUMMARIES ?= benchmarks/results
BENCH = --output $(REPORT) --aims $(AIMS) --summaries $(SUMMARIES) $(ARGS)
bench: $(VENV)/.tensorflow $(VENV)/.jax $(VENV)/.torch $(VENV)/.peers
	$(BIN)/python benchmarks/steps.py $(BENCH)
	$(BIN)/python benchmarks/groups.py $(BENCH)
	$(BIN)/python benchmarks/device.py $(BENCH)
	$(BIN)/python benchmarks/growth.py $(BENCH)
	$(BIN)/python benchmarks/averaging.py $(BENCH)
	$(BIN)/python benchmarks/ensembles.py $(BENCH)
	$(BIN)/python benchmarks/schedules.py $(BENCH)

# What a step costs on a GPU, in 8 minutes, on a machine without a network that has a
# backend. `make gpu-wheels`, where there is a network, puts what else Keras and we
# require into the folder `wheels`; the packages of the machine are not replaced. What is
# measured is the package in this folder, whose wheel says what it requires.
# ARGS="--device cpu --quick" tries it.
GPU_PYTHON ?= python3
GPU_PYTHON_VERSION ?= 3.12
GPU_PLATFORMS := manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1
WHEELS := wheels

gpu:
	@test -d $(WHEELS) || { echo "First run make gpu-wheels, with a network."; exit 1; }
	rm -rf $(WHEELS)/installed
	mkdir $(WHEELS)/installed
	$(GPU_PYTHON) -m pip install --quiet --no-index --find-links $(WHEELS) \
		--prefix $(WHEELS)/installed keras-lrs
	PYTHONPATH=$(CURDIR):$$(find $(CURDIR)/$(WHEELS)/installed -name "*-packages" | paste -sd:) \
		$(GPU_PYTHON) benchmarks/gpu.py $(ARGS)

gpu-wheels: | $(BIN)/python
	rm -rf $(WHEELS)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(WHEELS) .
	$(BIN)/python -m pip download --quiet --only-binary=:all: --implementation cp \
		--python-version $(GPU_PYTHON_VERSION) $(GPU_PLATFORMS:%=--platform %_x86_64) \
		--dest $(WHEELS) $(WHEELS)/*.whl

# Takes hours: runs that are killed, faults of files, an hour and thousands of fits in one
# process, and interrupts at every line, which take hours on each backend. Each finished
# case is kept in `benchmarks/results`: `ARGS=--resume` runs only those that are missing
# for today's code, `ARGS=--publish` only writes the page again, from what was kept, and
# `ARGS="--resume --workers 1"` leaves cores for other work.
reliability: $(VENV)/.tensorflow $(VENV)/.jax $(VENV)/.torch $(VENV)/.examples
	$(BIN)/python benchmarks/reliability.py --output docs/reliability.md $(ARGS)
	KERAS_BACKEND=torch $(BIN)/python benchmarks/faults.py --output docs/reliability.md $(ARGS)
	$(BIN)/python benchmarks/soak.py --output docs/reliability.md $(ARGS)
	$(BIN)/python benchmarks/endurance.py --output docs/reliability.md $(ARGS)
	$(MAKE) lines

# On its own, it can be limited: `ARGS="--parts 1 --backends torch"`.
lines: $(VENV)/.tensorflow $(VENV)/.jax $(VENV)/.torch $(VENV)/.examples
	$(BIN)/python benchmarks/interrupted_lines.py --output docs/reliability.md $(ARGS)

# Every published claim, run and judged: docs/evidence.md. On JAX, the fastest here.
# Takes some hours; `ARGS=--resume` resumes it, `ARGS=--quick` tries it.
# `ARGS=--publish` only writes the page again, from what was kept.
claims: $(VENV)/.jax $(VENV)/.examples
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python examples/claims --backend jax $(ARGS)

gallery: $(VENV)/.tensorflow $(VENV)/.plot
	$(BIN)/python docs/gallery.py

# The site, in the folder `site`; needs no network. Warnings are errors.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

# Each page of the site in Chromium, which must be on the machine, with chromedriver. What
# drives it is in a folder of its own: it brings plugins for other tests.
test-browser: $(VENV)/browser $(VENV)/.docs $(VENV)/.torch $(VENV)/.test
	PYTHONPATH=$(CURDIR)/$(VENV)/browser KERAS_BACKEND=torch $(PYTEST) --numprocesses=0 \
		tests/test_browser.py $(ARGS)

$(VENV)/browser: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade --target $@ --group browser
	touch $@

# What is published: checked, small, and running outside of this folder.
package: $(VENV)/.test
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tests/installed.py --size dist/*.whl

clean:
	rm -rf $(VENV) $(VENV)-newest $(WHEELS) build dist site .pytest_cache .hypothesis .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# Extras are for users, groups for developers. Each is installed once, and again when
# pyproject.toml has changed.
EXTRAS := tensorflow jax torch plot remote tune
$(EXTRAS:%=$(VENV)/.%): $(VENV)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

GROUPS := examples test peers storage tools docs
$(GROUPS:%=$(VENV)/.%): $(VENV)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable . --group "$*"
	touch $@

$(VENV)/.torch $(VENV)/.peers: | $(VENV)/.torch-release
$(VENV)/.torch-release: | $(BIN)/python
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --no-deps "$(TIMM)"
	touch $@
