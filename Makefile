# make demo, make test: everything else follows. Each sets up .venv by itself, once.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-slow check style app screenshots setup clean

demo: $(READY)
	$(BIN)/osteon demo

# By two processes of one thread each: threads that outnumber the cores wait for one another
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

test-slow: $(READY)
	$(BIN)/pytest -m slow

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

style: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

app: $(READY)
	$(BIN)/osteon app

# Of every tab, on the demo's models; needs playwright and a chromium
screenshots: $(READY)
	$(BIN)/python -m tests.panels.screenshots

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (a few minutes, once)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf .venv build *.egg-info
