# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One shared-memory thread pool a process; ranks share the machine's cores among themselves.
export OMP_NUM_THREADS ?= 1

.PHONY: install demo test test-all lint bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("agehpc needs Python 3.11 or newer: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: install
	test -f shards/demo/manifest.json || $(BIN)/agehpc data demo shards/demo
	$(BIN)/python -m torch.distributed.run --nproc-per-node 2 -m agehpc train video_age_demo \
		--data.shards shards/demo --out runs/demo

test: install
	$(BIN)/python -m pytest

test-all: install
	$(BIN)/python -m pytest -m 'slow or not slow'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: install
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/throughput.py --recipe video_age_demo --world-size 1 2

clean:
	rm -rf $(VENV) build dist *.egg-info
