# make up      a three-member ensemble on this machine (ARGS="--nodes 1 --port-base 2181")
# make test    everything that shows that it works (ARGS="tests/unit -k zab")
# make lint    style and types
# make bench   ours beside Apache's, in one run
# make clean   remove what was built; ./data stays

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
ARGS ?=

.PHONY: up test test-deps lint bench clean

up: $(VENV)/runtime.stamp
	@$(BIN)/python -m compileall -q src/quorate
	@exec $(BIN)/quorate up $(ARGS)

test: $(VENV)/test.stamp test-deps
	@$(BIN)/python -m compileall -q src/quorate
	$(BIN)/python -m pytest $(ARGS)

test-deps:
	@scripts/test-deps

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/test.stamp test-deps
	@$(BIN)/python -m compileall -q src/quorate
	$(BIN)/python -m benchmarks.zookeeper $(ARGS)

# Start-up time counts, so sources are compiled above even where the environment tells Python not to write bytecode.

$(VENV)/runtime.stamp: requirements/runtime.txt requirements/build.txt pyproject.toml
	scripts/venv $(VENV)
	$(PIP) -r requirements/build.txt -r requirements/runtime.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/test.stamp: $(VENV)/runtime.stamp requirements/test.txt
	$(PIP) -r requirements/test.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis src/quorate.egg-info benchmarks/zookeeper/load
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
