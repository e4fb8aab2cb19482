# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make try     set up, index the sample photos, search them by example
#   make test    set up, run the tests (without the slow ones, which `make test-all` runs too)
# VENV names the virtual environment; it is made again only when pyproject.toml has changed.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

.PHONY: try test test-all lint docs wheel clean

try: $(VENV)/.try
	mkdir -p try
	$(BIN)/visionzoo retrieve samples --overwrite -o try/samples
	$(BIN)/visionzoo retrieve index try/samples/photos -o try/photos.index
	$(BIN)/visionzoo retrieve search try/photos.index try/samples/queries/temple.jpg --top 8 --overwrite -o try/result.html
	@echo "open try/result.html in a browser; your own photos: $(BIN)/visionzoo retrieve index FOLDER -o my.index"

# two processes with one thread each
test: $(VENV)/.test
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.test
	$(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright --pythonpath $(BIN)/python

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: $(VENV)/.test
	$(BIN)/python -m build --wheel --no-isolation

clean:
	rm -rf try site dist build *.egg-info

$(VENV)/.try: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[retrieval]"
	touch $@

$(VENV)/.test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@ $(VENV)/.try

$(VENV)/.dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.test $(VENV)/.try
