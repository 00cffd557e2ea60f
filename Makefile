# One word for people and for CI. Needs Python >= 3.11 and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-fast lint bench clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed        ## train on the embedded photos, prove learning, leave runs/demo/report.html
	$(BIN)/nexus demo --out runs/demo --overwrite

# One process a core, each with one thread: several threads a process only wait for each other.
test: .venv/installed lint   ## everything that must hold
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

test-fast: .venv/installed   ## without the tests marked slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto -m 'not slow'

lint: .venv/installed        ## style and types
	$(BIN)/ruff check nexus tests benchmarks
	$(BIN)/ruff format --check nexus tests benchmarks
	$(BIN)/mypy

bench: .venv/installed       ## measurements, printed as Markdown
	$(BIN)/python -m benchmarks.crops
	$(BIN)/python -m benchmarks.attention_cpu

clean:
	rm -rf .venv build *.egg-info
