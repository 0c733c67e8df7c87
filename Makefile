# make demo: the whole chain on the embedded digits.  make test: everything is set up and tested.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Each of JOBS processes takes a run of neighbouring tests, then what another one has left. Tests that want more threads
# than one say so.
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

# SCALE-Sim, which estimates systolic arrays, needs an older numpy than the rest.
SCALESIM := .venv-scalesim/.ready

.PHONY: demo test test-slow check scalesim clean

demo: $(READY)
	$(BIN)/nas run recipe=digits

# Both environments are set up side by side: one waits for the network while the other one unpacks.
test:
	$(MAKE) --jobs 2 $(READY) $(SCALESIM)
	$(MAKE) check
	$(PYTEST)

test-slow: $(READY) $(SCALESIM)
	$(PYTEST) -m slow

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch first and alone: with 2.13.0 installed, nothing else pulls another build of it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hwnas needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tvm,ethos-u,ray,tensorboard,detection,dev]'
	touch $(READY)

scalesim: $(SCALESIM)

$(SCALESIM): Makefile
	$(PYTHON) -m venv .venv-scalesim
	.venv-scalesim/bin/python -m pip install --quiet --disable-pip-version-check scalesim==3.0.0 numpy==2.2.6
	touch $(SCALESIM)

clean:
	rm -rf $(VENV) .venv-scalesim build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
