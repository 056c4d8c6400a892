# Everything a fresh clone needs: `make overfit` runs the ladder, `make test` all other tests; both set up first.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
WORKERS ?= 2
BIN := $(VENV)/bin
OLDEST := .cache/oldest
EXTRAS := curves,landmarks,parquet,pictures,search,train,test
# One OpenMP pool a worker and one worker a core: two pools on the same cores cost ten times the time.
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS)

.PHONY: setup overfit test portability oldest check bench faults runs clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

overfit: setup
	$(PARALLEL) -m overfit tests/overfit

# Without the video one test says that it needs it; all others run.
test: setup
	-$(BIN)/python -m tests.fixtures.real_video
	$(PARALLEL) -m "not benchmark and not overfit"

# The tests that train, once more as on other processors: instruction sets, threads, weights off by 1e-6. VARIANTS=jitter-1 runs one of them, RUNGS=1,2,5 these of the ladder, OF=2 half of the tests, others for each state of the sources.
portability: setup
	$(BIN)/python -m tests.portability --workers $(WORKERS) $(if $(VARIANTS),--variants $(VARIANTS)) $(if $(RUNGS),--rungs $(RUNGS)) $(if $(OF),--of $(OF))

# The tests with the lowest versions that pyproject.toml declares. Where the package index has torch for CUDA alone, that takes 7 GB.
oldest: setup
	mkdir -p $(OLDEST)
	$(BIN)/python -m tests.portability.lowest $(EXTRAS) > $(OLDEST)/constraints.txt
	$(PYTHON) -m venv $(OLDEST)/venv
	$(OLDEST)/venv/bin/pip install --quiet --constraint $(OLDEST)/constraints.txt --editable ".[$(EXTRAS)]"
	OMP_NUM_THREADS=1 $(OLDEST)/venv/bin/pytest -n $(WORKERS) -m "not benchmark"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mkdocs build --quiet

bench: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/benchmarks -m benchmark

# Plants every fault and every sound change, goes on where it was cut off, and writes docs/kill_matrix.md.
faults: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m examination --workers $(WORKERS)

# Trains the runs that prove the health report, goes on where it was cut off, and writes docs/health_matrix.md.
runs: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m examination.health_matrix

clean:
	rm -rf $(VENV) .cache logs build dist *.egg-info overfitting_*_report.*
