# Two commands for a fresh machine: `make demo` and `make test`. Both may be run again at any time.
# PYTHON picks the interpreter (>= 3.11), VENV the folder of the environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test

demo: $(READY)
	@echo "== fast adversarial training of a KafVGG on scikit-learn's handwritten digits"
	$(BIN)/python cli.py fit --config kafvgg_short_fast_at.yaml --config digits.yaml --config cpu.yaml \
		--trainer.max_epochs 15 --run.name demo

test: $(READY)
	@echo "== lint and types"
	$(BIN)/ruff check .
	$(BIN)/mypy
	@echo "== tests; the long ones: $(BIN)/pytest -m slow"
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --maxprocesses 8 --dist loadfile

# adv-lib: other implementations of the attacks, for tests; without its dependencies, as visdom no longer builds
$(READY): pyproject.toml
	@echo "== environment in $(VENV): several GB the first time, then reused until pyproject.toml changes"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, PYTHON=$(PYTHON) is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade pip
	$(BIN)/python -m pip install -qq --editable '.[app,dev]'
	$(BIN)/python -m pip install -qq --no-deps adv-lib
	@touch $@
