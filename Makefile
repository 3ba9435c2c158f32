# The commands of the project. What each needs first, it makes first.
.POSIX:
.PHONY: help setup data browser demo check smoke wheel processors goldens test scoreboard clean

VENV = .venv
STAMP = $(VENV)/.set-up

help:
	@echo "make demo        install, get the data, compress the shipped network, write its report"
	@echo "make test        install, get the data, run all checks, the wheel's and all tests"
	@echo "make scoreboard  which of the 60 systems of the mission hold"
	@echo "make check       format, lint, types, floors (after 'make setup')"
	@echo "make wheel       install the wheel without extras and run the main job in small through it"
	@echo "make processors  coding, products and int8 files, as on other processors"
	@echo "make goldens     every shipped recipe in small still gives what it gave"
	@echo "make setup       the environment alone, in $(VENV)"
	@echo "make data        Fashion-MNIST alone"
	@echo "make clean       remove the environment, runs and caches"

setup: $(STAMP)

# Made again when a dependency changes.
$(STAMP): pyproject.toml constraints.txt scripts/setup
	scripts/setup
	@touch $(STAMP)

data: $(STAMP)
	scripts/data

browser:
	scripts/browser

demo: $(STAMP) data
	$(VENV)/bin/tersenet compress recipes/fashion-resnet20.yaml

check: $(STAMP)
	scripts/check

smoke: $(STAMP) data
	scripts/smoke

wheel: $(STAMP) data
	scripts/wheel

processors: $(STAMP)
	scripts/processors

goldens: $(STAMP) data
	$(VENV)/bin/python tests/goldens/play.py

# The wheel's environment does the smoke run. The tests come last: their closing line is the last
# thing printed. A worker for each core, with one thread each: threads that wait for each other are
# slower than none.
test: $(STAMP) data browser
	scripts/check
	scripts/wheel
	scripts/processors
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

scoreboard: $(STAMP) data
	$(VENV)/bin/python scripts/scoreboard.py

clean:
	rm -rf $(VENV) .venv-wheel runs dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +
