# Needs Python 3.11 or newer (with venv) and make; everything else is installed into .venv.
#   make test     sets up and runs the linters and the tests
#   make train    sets up and runs the main job: train, evaluate, draw
#   make bench    measures speed and memory (prints, gates nothing)
#   make docs     builds the documentation into docs/_build/html
#   make replay   plays a part of the committed board again, on cases built anew
#   make bounds   runs the Monte Carlo kernels with array bounds checked
#   PYTHON=python3.12 make test     takes another interpreter

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
EXTRAS := agents,sweep,ray,offline,docs,dev
PIP := $(BIN)/python -m pip install -q --retries 5 --timeout 60 -c constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: test train bench bounds docs replay lint clean
.DELETE_ON_ERROR:

test: lint
	$(BIN)/python -m pytest -q --durations=10

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/lint-imports

train: $(INSTALLED)
	$(BIN)/ptenv train $(ARGS)

bench: $(INSTALLED)
	$(BIN)/python -m pytest tests/benchmarks -q -s

docs: $(INSTALLED)
	$(BIN)/python -m sphinx -W -q -b html docs docs/_build/html

# A change of dynamics that breaks replay must raise a version: of the id, and of the suite.
PART ?= 0.03
replay: $(INSTALLED)
	cache=$$(mktemp -d) && PTENV_CACHE=$$cache $(BIN)/ptenv benchmark validate docs/leaderboard/mini/* \
	  part=$(PART) reference=false; status=$$?; rm -rf $$cache; exit $$status

# A mirror that stumbles once should not cost the whole run: three tries, what is down stays cached.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "PYTHON=$(PYTHON) is missing or older than 3.11; name a newer one: PYTHON=python3.12 make" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); } || { \
	  echo "$(PYTHON) -m venv failed; on Debian and Ubuntu install python3-venv first." >&2; exit 1; }
	@for try in 1 2 3; do \
	  $(PIP) -e '.[$(EXTRAS)]' && $(PIP) --no-deps hydra-ray-launcher && break; \
	  [ $$try -lt 3 ] || { echo "pip failed three times; its message is above." >&2; exit 1; }; \
	  echo "pip failed; trying once more …" >&2; sleep 5; \
	done
	@touch $@

# Compiled loops read past no array's end: half a minute of compiling, no cache.
bounds: $(INSTALLED)
	PTENV_BOUNDSCHECK=1 $(BIN)/python -m pytest tests/engine/dose/monte_carlo/test_bounds.py -q

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .import_linter_cache .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
